"""One metric, one file; bootstrap intervals."""
