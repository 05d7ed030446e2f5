"""Comparisons of methods, made of many runs in separate processes."""
