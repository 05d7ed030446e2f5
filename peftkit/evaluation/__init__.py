"""Scores, and the receipt that shows them."""
