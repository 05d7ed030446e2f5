"""The tasks, one in each file; `task.py` defines what a task must provide."""
