"""Answers to rows of a file, and a conversation."""
