"""Metrics as `evaluate.Metric` subclasses; none is fetched from the Hub."""
