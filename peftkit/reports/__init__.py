"""What users read about a run: console output, receipts and plots, and the records behind them."""
