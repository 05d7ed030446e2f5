"""Scores that several tasks share, from the outputs of a model."""
