"""Prompt tuning: The Power of Scale for Parameter-Efficient Prompt Tuning (Lester et al. 2021,
arXiv:2104.08691).

    f([P; E(x)])        P: (num_virtual_tokens, d), trained; E: the frozen embeddings

The least a method can train. The paper finds it as good as full fine-tuning at 10B parameters and
far below it under 1B, with a learning rate of 0.3 and 100 virtual tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from peftkit.bases.base import Base
from peftkit.methods.stored import _StoredByPeft
from peftkit.tasks.task import Task

if TYPE_CHECKING:
    from torch import nn

    from peftkit.data.encoded import Encoded


class PromptTuning(_StoredByPeft):
    """Trains embeddings that stand before the text."""

    num_virtual_tokens: int = Field(default=20, ge=1)
    """Length of the prompt."""
    prompt_tuning_init: Literal["RANDOM", "SAMPLE_VOCAB", "TEXT"] = "SAMPLE_VOCAB"
    """Where the prompt starts: anywhere, at the embeddings of random tokens (better in the paper's
    figure 3), or at those of `prompt_tuning_init_text`."""
    prompt_tuning_init_text: str = ""
    """Text to start from; cut or repeated to the length of the prompt."""

    @model_validator(mode="after")
    def _text(self) -> Self:
        if (self.prompt_tuning_init == "TEXT") != bool(self.prompt_tuning_init_text):
            raise ValueError(
                '`prompt_tuning_init_text` and `prompt_tuning_init="TEXT"` need each other'
            )
        return self

    @property
    def position_offset(self) -> int:
        return self.num_virtual_tokens

    def supports(self, task: Task, base: Base) -> str | None:
        from peftkit.methods.p_tuning import no_outputs_for_virtual_tokens

        return no_outputs_for_virtual_tokens(self.kind(), task)

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        from peft import PromptTuningConfig
        from peft.tuners.prompt_tuning import PromptTuningInit

        from peftkit.methods.peft_layout import is_rehearsal, modules_to_save
        from peftkit.methods.virtual_tokens import inject_virtual

        start = "RANDOM" if is_rehearsal(model) else self.prompt_tuning_init
        config = PromptTuningConfig(
            task_type=encoded.head.task_type,
            num_virtual_tokens=self.num_virtual_tokens,
            prompt_tuning_init=PromptTuningInit(start),
            prompt_tuning_init_text=self.prompt_tuning_init_text or None,
            tokenizer_name_or_path=getattr(model, "name_or_path", None) or None,
            modules_to_save=modules_to_save(head),
        )
        injected = inject_virtual(model, config)
        # where it started is in the recipe; PEFT would look for the tokenizer at this local path
        config.prompt_tuning_init = PromptTuningInit.RANDOM
        config.prompt_tuning_init_text = config.tokenizer_name_or_path = None
        return injected

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...]) -> nn.Module:
        from peftkit.methods.virtual_tokens import load_virtual

        return load_virtual(model, folder)
