"""Answers the rows of a file, and holds conversations."""
