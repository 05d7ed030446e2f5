"""Rows: where they come from, how they are split, and the ledger of what happened to each."""
