"""Finds the scale at which an adapter keeps what it learned and forgets least."""
