"""How PEFT does it: its settings, its layers, its files."""
