"""Scores of a model's outputs that several tasks share."""
