"""Encodes the rows of a task as token ids, and marks the positions whose outputs are read."""
