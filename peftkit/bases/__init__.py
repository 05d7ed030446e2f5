"""Base models: opening, loading, quantization, added tokens, pooled classifiers, devices."""
