"""Base models: opening, loading, quantizing, added tokens, pooling, devices."""
