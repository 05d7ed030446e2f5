"""Runs jobs in separate processes; saves results in a folder, so that a comparison can resume."""
