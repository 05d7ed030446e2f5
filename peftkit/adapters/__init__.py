"""Saves, inspects, verifies and loads adapters, including those saved by other programs."""
