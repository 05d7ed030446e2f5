"""The adapter on disk: saved, inspected, verified, loaded, and adapters of other programs."""
