"""The training loop and its parts: optimizers, stopping, guards, progress, interruptions."""
