"""One task, one file. `task.py` is the contract."""
