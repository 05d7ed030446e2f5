"""Base models: what they are (`base.py`), opening them without weights, loading the weights."""
