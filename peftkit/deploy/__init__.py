"""Answers with a finished adapter, merges it, exports it, or rewinds it."""
