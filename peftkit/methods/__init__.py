"""Fine-tuning methods, one file for each paper; `method.py` defines what a method must do."""
