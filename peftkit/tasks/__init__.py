"""Tasks: what is read, what is predicted, and how it is scored. One task, one file."""
