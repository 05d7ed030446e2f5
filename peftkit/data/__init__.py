"""Sources, rows, splits, the ledger of every row, and encoded examples."""
