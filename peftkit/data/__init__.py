"""Reads and splits rows, counts them in a ledger, and holds encoded examples."""
