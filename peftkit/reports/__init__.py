"""Records of runs as values, and what users read: console output, receipts, plots."""
