"""What a run leaves: the adapter on disk, its record, its card, and the way back into a model."""
