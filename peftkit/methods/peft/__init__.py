"""Works with PEFT's settings and layers, and with adapter files in its format."""
