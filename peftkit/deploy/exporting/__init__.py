"""Writes the adapter in the formats of other programs."""
