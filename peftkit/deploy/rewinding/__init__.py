"""Rewinds an adapter: finds the scale at which it keeps its score and forgets least."""
