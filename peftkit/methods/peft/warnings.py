"""Suppresses PEFT's warnings that are harmless in peftkit, or that an error replaces."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
    """A context without PEFT's warnings that are harmless here, or that an error replaces."""
    with warnings.catch_warnings():
        for message in (
            "Found missing adapter keys",  # `_restore` raises
            "Unexpected keyword arguments",  # `published.other_fields` judges them
            "fan_in_fan_out is set to",  # for Conv1D, which becomes nn.Linear when quantized
            "Unsupported layer type",  # norms; PEFT copies any kind
            "The following .*_pattern keys",  # `inject_checked` raises; AdaLoRA's are its own
            "You have passed exclude_modules",  # likewise
            "`lora_bias=True` was passed but",  # `PeftMethod.notes` says it
            "Adapter .*lora_B.bias:",  # PEFT mistakes it for a cut matrix
            "target_(modules|parameters)=.* were set",
            "Model has `tie_word_embeddings=True`",  # `untie_adapted` comes before a merge
        ):
            warnings.filterwarnings("ignore", message)
        yield
