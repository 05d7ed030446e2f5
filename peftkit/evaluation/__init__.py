"""Scores: of outputs, of written answers, of a frozen base, of what was known before."""
