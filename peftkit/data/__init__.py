"""Sources, rows, splits, the ledger of every row, encoded examples."""
