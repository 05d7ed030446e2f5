"""P-tuning: GPT Understands, Too (Liu et al. 2021, arXiv:2103.10385).

    f([g(P); E(x)])        P: (num_virtual_tokens, d), g: a small network, both trained

Prompt tuning in which one network computes all embeddings. Only its output g(P) is saved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from peftkit.bases.base import Base
from peftkit.methods.reasons import token_labels_refusal
from peftkit.methods.stored import StoredVirtualTokens

if TYPE_CHECKING:
    from torch import nn

    from peftkit.data.encoded import Encoded
    from peftkit.data.head import Head


class PTuning(StoredVirtualTokens):
    """Trains a network that computes virtual tokens' embeddings; saves only the embeddings."""

    num_virtual_tokens: int = Field(default=20, ge=1)
    """Length of the prompt in tokens."""
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    """The network. `MLP`: three linear layers. `LSTM`: the paper's bidirectional LSTM and two
    linear layers."""
    encoder_hidden_size: int | None = Field(default=None, ge=1)
    """Width of the network; the base's hidden size if not given."""
    encoder_num_layers: int = Field(default=2, ge=1)
    """Number of layers of the LSTM."""

    def refuses(self, head: Head, base: Base) -> str | None:
        return token_labels_refusal(self.kind(), head)

    def refuses_start(self) -> str | None:
        return (
            "PTuning saves its prompt without the network that made it; continue with PromptTuning"
        )

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        from peft import PromptEncoderConfig
        from peft.tuners.p_tuning import PromptEncoderReparameterizationType

        from peftkit.methods.peft.injection import modules_to_save
        from peftkit.methods.virtual_tokens import embedding_width, inject_virtual

        config: Any = model.config
        return inject_virtual(
            model,
            PromptEncoderConfig(
                task_type=encoded.head.task_type,
                num_virtual_tokens=self.num_virtual_tokens,
                token_dim=embedding_width(model),
                encoder_reparameterization_type=PromptEncoderReparameterizationType(
                    self.encoder_reparameterization_type
                ),
                encoder_hidden_size=self.encoder_hidden_size or config.hidden_size,
                encoder_num_layers=self.encoder_num_layers,
                modules_to_save=modules_to_save(encoded.head.task_type, head),
            ),
        )
