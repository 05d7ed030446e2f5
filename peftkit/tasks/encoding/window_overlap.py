"""How many tokens neighbouring windows of a row share."""

from __future__ import annotations

from typing import Any

from peftkit.errors import RecipeError
from peftkit.wording import plural

USUAL = 64
"""Tokens that neighbouring windows share if the recipe does not say how many."""


def window_overlap(overlap: int | None, max_length: int, tokenizer: Any) -> int:
    """Returns how many tokens neighbouring windows share: at most half a window.

    Args:
        overlap: the wanted number; None for `USUAL`.
        max_length: most tokens of a window; the base may allow less.
    """
    return min(USUAL if overlap is None else overlap, _room(max_length, tokenizer) // 2)


def check_overlap(overlap: int | None, max_length: int, tokenizer: Any) -> None:
    """Raises RecipeError if neighbouring windows cannot share as many tokens as the recipe says.

    Args:
        overlap, max_length: see `window_overlap`.
    """
    most = window_overlap(overlap, max_length, tokenizer)
    if overlap is not None and overlap > most:
        raise RecipeError(
            f"`task.overlap` is {overlap}, more than half of a window, which has room for "
            f"{plural(_room(max_length, tokenizer), 'token')}",
            f"give `--task.overlap {most}` or less",
        )


def _room(max_length: int, tokenizer: Any) -> int:
    """Returns the most tokens of a row in one window, which has special tokens too."""
    most: int = min(max_length, tokenizer.model_max_length)
    return max(1, most - int(tokenizer.num_special_tokens_to_add()))
