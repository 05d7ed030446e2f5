"""A weight that consists of a trained and a frozen half."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Joined(nn.Module):
    """A parametrization that appends a frozen weight to the trained one along `dim`."""

    frozen: Tensor

    def __init__(self, frozen: Tensor, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("frozen", frozen.detach().clone(), persistent=False)

    def forward(self, trained: Tensor) -> Tensor:
        """Returns both halves as one weight: (2r, in) for A, (out, 2r) for B."""
        return torch.cat((trained, self.frozen), dim=self.dim)
