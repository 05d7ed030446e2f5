"""Scores a model's outputs and written answers, the frozen probe, and retention."""
