"""The loop, and what it uses: optimizers, stopping, guards, progress, interruptions."""
