"""Building blocks of recipes: frozen values, JSON, error collection, users' scripts."""
