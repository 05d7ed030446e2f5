"""Functions that score outputs, each used by several tasks."""
