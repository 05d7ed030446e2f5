"""The building blocks of recipes: frozen values, JSON, problems reported at once, scripts."""
