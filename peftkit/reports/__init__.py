"""Records of runs as values, and what people read: console, receipt, plots."""
