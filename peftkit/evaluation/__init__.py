"""Scores of outputs, of written answers, of a frozen base, and of retention."""
