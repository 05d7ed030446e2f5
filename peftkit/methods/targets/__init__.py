"""Chooses the modules of a model that a method adapts, and checks the choice."""
