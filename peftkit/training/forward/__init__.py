"""Forward and backward: batches, attention in packed rows, frozen blocks, the self-check."""
