"""Evaluation: scores of outputs and written answers, the frozen probe, and retention."""
