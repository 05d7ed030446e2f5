"""Which modules of a model a method adapts."""
