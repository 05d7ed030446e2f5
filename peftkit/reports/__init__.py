"""What a person reads of a run: console, receipt, pictures."""
