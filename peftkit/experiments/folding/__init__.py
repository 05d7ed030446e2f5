"""Cross-validation: one run for each fold of the rows, one table, and the best fold's adapter."""
