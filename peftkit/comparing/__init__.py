"""Many methods on the same rows with the same budget, and the report of it."""
