"""Forward and backward passes: batches, attention in packed rows, frozen blocks, self-check."""
