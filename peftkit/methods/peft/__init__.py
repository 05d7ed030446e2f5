"""PEFT's settings, layers and files."""
