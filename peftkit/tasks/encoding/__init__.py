"""Encodes the rows of a task as token ids, and marks the places that are read."""
