"""Adapters on disk: saving, inspecting, verifying, loading, and those of other programs."""
