"""Bottleneck adapters: Parameter-Efficient Transfer Learning for NLP (Houlsby et al. 2019,
arXiv:1902.00751), in three placements.

    delta(x) = scaling * up(f(down(x)))     down: (m, d), up: (d, m), m = d / reduction_factor

    houlsby    after the attention and after the feed-forward sublayer (the paper's)
    pfeiffer   after the block only (Pfeiffer et al. 2021, AdapterFusion, arXiv:2005.00247)
    parallel   beside the feed-forward sublayer (He et al. 2022, arXiv:2110.04366, who use a scaling
               of 4 and find this placement the best)

The layers are in `bottleneck_tuner.py`, which registers them with PEFT.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from peftkit.methods.method import Layout
from peftkit.methods.stored import StoredByPeft
from peftkit.methods.targets.checked_targets import named_modules
from peftkit.methods.targets.targets import Targets

if TYPE_CHECKING:
    from torch import nn

    from peftkit.data.encoded import Encoded


class BottleneckAdapter(StoredByPeft):
    """Trains small bottleneck networks inside the frozen blocks."""

    layouts: ClassVar[tuple[Layout, ...]] = ("padded", "packed")

    placement: Literal["houlsby", "pfeiffer", "parallel"] = "houlsby"
    """Where the adapters are: `houlsby` after both sublayers, `pfeiffer` after the block,
    `parallel` beside the feed-forward sublayer."""
    reduction_factor: float = Field(default=16, gt=0)
    """Width of the hidden states divided by the width of the bottleneck."""
    non_linearity: Literal["relu", "gelu", "swish", "tanh"] = "relu"
    """Activation between the two projections."""
    scaling: float = Field(default=1.0, gt=0)
    """Factor on the adapter's output."""
    ln_before: bool = False
    """Whether a trained layer norm precedes the bottleneck."""
    target_modules: Targets = ""
    """Modules that get an adapter. If empty, the placement decides; this works for BERT, Llama,
    GPT-2, T5 and their families."""

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        from peftkit.methods.bottleneck_tuner import BottleneckConfig
        from peftkit.methods.peft.injection import modules_to_save
        from peftkit.methods.targets.matching import inject_checked
        from peftkit.methods.targets.patterns import check_has_weights

        targets = named_modules(model, self.target_modules, head)
        check_has_weights(model, targets, head, "method.target_modules")
        config = BottleneckConfig(
            task_type=encoded.head.task_type,
            placement=self.placement,
            reduction_factor=self.reduction_factor,
            non_linearity=self.non_linearity,
            scaling=self.scaling,
            ln_before=self.ln_before,
            target_modules=targets,
            exclude_modules=list(head) or None,
            modules_to_save=modules_to_save(encoded.head.task_type, head),
        )
        return inject_checked(model, config, {})

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...]) -> nn.Module:
        import peftkit.methods.bottleneck_tuner  # noqa: F401  # registers the type with PEFT

        return super().load(model, folder, head)
