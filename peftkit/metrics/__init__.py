"""The metrics, one in each file, and their bootstrap intervals."""
