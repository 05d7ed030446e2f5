"""Prefix tuning: Optimizing Continuous Prompts for Generation (Li & Liang 2021, arXiv:2101.00190).

    attention(q, [P_k; K], [P_v; V])        P_k, P_v: (num_virtual_tokens, d) in every layer

Every layer attends to trained keys and values before the text's keys and values. The paper trains
the prefix through a small network (`prefix_projection`), which it drops afterwards. It initialises
the prefix with the model's activations on real words; with little data, other starts give noisy
output (section 7.4). PEFT starts from a normal distribution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from peftkit.methods.peft.types import ADAPTER_NAME
from peftkit.methods.stored import StoredVirtualTokens

if TYPE_CHECKING:
    from torch import nn

    from peftkit.data.encoded import Encoded


class PrefixTuning(StoredVirtualTokens):
    """Trains keys and values in every layer, which precede the text's keys and values."""

    num_virtual_tokens: int = Field(default=20, ge=1)
    """Length of the prefix in tokens; the paper uses 10 to describe tables and 200 to summarise."""
    prefix_init: Literal["words", "random"] = "words"
    """Start of the prefix. `words`: a decoder's keys and values of random tokens from its
    vocabulary. `random`: random numbers; encoders and a projected prefix always use these."""
    prefix_projection: bool = False
    """Whether the prefix is trained through a two-layer network."""
    encoder_hidden_size: int | None = Field(default=None, ge=1)
    """Width of the network of `prefix_projection`; the base's hidden size if not given."""

    def refuses_checkpointing(self) -> str | None:
        return (
            "PrefixTuning keeps its prefix in the cache of keys and values, which is missing when "
            "activations are recomputed; use PromptTuning, LoRA or a smaller "
            "`training.micro_batch_tokens` instead"
        )

    def refuses_start(self) -> str | None:
        if not self.prefix_projection:
            return None
        return (
            "PrefixTuning saves its prefix without the network that made it; leave "
            "`method.prefix_projection` out"
        )

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        from peft import PrefixTuningConfig

        from peftkit.methods.peft.injection import is_rehearsal, modules_to_save
        from peftkit.methods.virtual_tokens import inject_virtual

        config: Any = model.config
        injected = inject_virtual(
            model,
            PrefixTuningConfig(
                task_type=encoded.head.task_type,
                num_virtual_tokens=self.num_virtual_tokens,
                prefix_projection=self.prefix_projection,
                encoder_hidden_size=self.encoder_hidden_size or config.hidden_size,
                modules_to_save=modules_to_save(encoded.head.task_type, head),
            ),
        )
        if self.prefix_init == "words" and not self.prefix_projection and not is_rehearsal(model):
            _start_at_words(injected, self.num_virtual_tokens)
        return injected


def _start_at_words(injected: Any, count: int) -> None:
    """Sets the prefix to a decoder's keys and values of random tokens. Leaves the prefix unchanged
    if the model returns no keys and values, or returns them in another shape.
    """
    import torch

    from peftkit.methods.virtual_tokens import reads_left_to_right

    base: Any = injected.get_base_model()
    if not reads_left_to_right(base):
        return
    embeddings: Any = base.get_input_embeddings()
    ids = torch.randint(embeddings.weight.shape[0], (1, count)).to(embeddings.weight.device)
    training = base.training
    with torch.no_grad():
        cache = base.eval()(input_ids=ids, use_cache=True).get("past_key_values")
    base.train(training)
    layers = [layer for layer in getattr(cache, "layers", ()) if hasattr(layer, "keys")]
    halves = [half for layer in layers for half in (layer.keys, layer.values)]
    if not halves or len({half.shape for half in halves}) > 1:
        return
    prefix: Any = injected.prompt_encoder[ADAPTER_NAME].embedding.weight
    states = (
        torch.stack(halves)[:, 0].permute(2, 0, 1, 3).reshape(count, -1)
    )  # (tokens, all states)
    if states.shape == prefix.shape:
        prefix.data.copy_(states)
