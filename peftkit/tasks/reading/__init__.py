"""Reads the rows of files as texts, labels, words and conversations."""
