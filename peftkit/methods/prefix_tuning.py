"""Prefix tuning: Optimizing Continuous Prompts for Generation (Li & Liang 2021, arXiv:2101.00190).

    attention(q, [P_k; K], [P_v; V])        P_k, P_v: (num_virtual_tokens, d) in every layer

Every layer attends to trained keys and values before those of the text. The paper trains the
prefix through a small network (`prefix_projection`), which it drops afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from peftkit.methods.stored import _VirtualTokens

if TYPE_CHECKING:
    from torch import nn

    from peftkit.data.encoded import Encoded


class PrefixTuning(_VirtualTokens):
    """Trains keys and values that stand before the text in every layer."""

    num_virtual_tokens: int = Field(default=20, ge=1)
    """Length of the prefix; the paper uses 10 for tables and 200 for summaries."""
    prefix_projection: bool = False
    """Whether the prefix is trained through a two-layer network."""
    encoder_hidden_size: int | None = Field(default=None, ge=1)
    """Width of that network; the base's hidden size if not given."""

    def supports_checkpointing(self) -> str | None:
        return (
            "PrefixTuning keeps its prefix in the cache of keys and values, which is not there "
            "when activations are computed again; use PromptTuning, LoRA or a smaller "
            "`training.micro_batch_tokens` instead"
        )

    def supports_start(self) -> str | None:
        if not self.prefix_projection:
            return None
        return (
            "PrefixTuning saves its prefix without the network that made it; leave "
            "`method.prefix_projection` out"
        )

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        from peft import PrefixTuningConfig

        from peftkit.methods.peft_layout import modules_to_save
        from peftkit.methods.virtual_tokens import inject_virtual

        config: Any = model.config
        return inject_virtual(
            model,
            PrefixTuningConfig(
                task_type=encoded.head.task_type,
                num_virtual_tokens=self.num_virtual_tokens,
                prefix_projection=self.prefix_projection,
                encoder_hidden_size=self.encoder_hidden_size or config.hidden_size,
                modules_to_save=modules_to_save(head),
            ),
        )
