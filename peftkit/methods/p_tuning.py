"""P-tuning: GPT Understands, Too (Liu et al. 2021, arXiv:2103.10385).

    f([g(P); E(x)])        P: (num_virtual_tokens, d), g: a small network, both trained

Prompt tuning whose embeddings come out of a network, which couples them; afterwards only g(P) is
kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from peftkit.bases.base import Base
from peftkit.methods.stored import _StoredByPeft
from peftkit.tasks.task import Task

if TYPE_CHECKING:
    from torch import nn

    from peftkit.data.encoded import Encoded


class PTuning(_StoredByPeft):
    """Trains embeddings before the text, through a network that is dropped afterwards."""

    num_virtual_tokens: int = Field(default=20, ge=1)
    """Length of the prompt."""
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    """The network: three linear layers, or the paper's bidirectional LSTM and two of them."""
    encoder_hidden_size: int | None = Field(default=None, ge=1)
    """Its width; the base's hidden size if not given."""
    encoder_num_layers: int = Field(default=2, ge=1)
    """Layers of the LSTM."""

    @property
    def position_offset(self) -> int:
        return self.num_virtual_tokens

    def supports(self, task: Task, base: Base) -> str | None:
        return no_outputs_for_virtual_tokens(self.kind(), task)

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        from peft import PromptEncoderConfig
        from peft.tuners.p_tuning import PromptEncoderReparameterizationType

        from peftkit.methods.peft_layout import modules_to_save
        from peftkit.methods.virtual_tokens import inject_virtual

        config: Any = model.config
        return inject_virtual(
            model,
            PromptEncoderConfig(
                task_type=encoded.head.task_type,
                num_virtual_tokens=self.num_virtual_tokens,
                encoder_reparameterization_type=PromptEncoderReparameterizationType(
                    self.encoder_reparameterization_type
                ),
                encoder_hidden_size=self.encoder_hidden_size or config.hidden_size,
                encoder_num_layers=self.encoder_num_layers,
                modules_to_save=modules_to_save(head),
            ),
        )

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...]) -> nn.Module:
        from peftkit.methods.virtual_tokens import load_virtual

        return load_virtual(model, folder)


def no_outputs_for_virtual_tokens(kind: str, task: Task) -> str | None:
    """Why virtual tokens in the text do not go with one label for each token."""
    if task.task_type != "TOKEN_CLS":
        return None
    return (
        f"{kind} puts virtual tokens into the text, and a token classifier gives outputs for them "
        "that no label answers; use PrefixTuning, whose virtual tokens have no outputs, or LoRA"
    )
