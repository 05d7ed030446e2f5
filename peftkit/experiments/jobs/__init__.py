"""Runs jobs in separate processes; saves results in a folder, so that they can resume."""
