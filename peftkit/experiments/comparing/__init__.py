"""Compares methods at their best learning rates, with verdicts, a table and a report."""
