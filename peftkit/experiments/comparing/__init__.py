"""Compares methods, each at its best learning rate; makes verdicts, a table and a report."""
