"""Adapters of other programs: what they are, and a recipe for them."""
