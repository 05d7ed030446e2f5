"""Other programs' adapters: what they are, and a recipe to load them with."""
