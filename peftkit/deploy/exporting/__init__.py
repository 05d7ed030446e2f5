"""The adapter in the formats of other programs."""
