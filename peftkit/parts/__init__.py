"""What recipes are made of: frozen values, JSON, problems reported at once, scripts."""
