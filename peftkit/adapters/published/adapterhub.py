"""Loads AdapterHub's adapters on transformers models, converted to peftkit's bottleneck adapters.

    [bert.]encoder.layer.3.output.adapters.NAME.adapter_down.0.weight
      -> base_model.model.[bert.]encoder.layer.3.output.bottleneck_down.weight

`adapterhub_format` has the formulas. A learned scaling is multiplied into `up`, which does not
change the outputs. A head is converted if a transformers classifier computes the same function.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.adapters.inspection.adapterhub_format import (
    ADAPTER_WEIGHTS,
    HEAD_WEIGHTS,
    HubSettings,
    describe,
)
from peftkit.adapters.inspection.inspected import Inspected
from peftkit.adapters.published.adapterhub_head import hub_head
from peftkit.adapters.published.detection import layer_mismatch, names_in
from peftkit.errors import AdapterError, MethodError, quoted
from peftkit.methods.method import Method
from peftkit.methods.peft.adapter_config import AdapterConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peftkit.bases.base import Base
    from peftkit.data.encoded import Encoded
    from peftkit.methods.bottleneck_tuner import BottleneckConfig

OF_A_BLOCK = {"mh_adapter": "attention.output", "output_adapter": "output"}
CONTAINERS = (
    "adapters", "attention_text_task_adapters", "attention_text_lang_adapters",
    "layer_text_task_adapters", "layer_text_lang_adapters",
)  # fmt: skip
"""Names of the ModuleDicts that hold adapters in AdapterHub's library, newest first."""


def explain(inspected: Inspected) -> Iterator[tuple[bool, str, str]]:
    """Yields findings on an AdapterHub folder: (whether answers change, message, meaning)."""
    assert inspected.config is not None
    yield (
        False,
        f"an AdapterHub adapter: {describe(inspected.config)}",
        "converted to a bottleneck adapter of peftkit",
    )
    if isinstance(head := hub_head(inspected), str):
        yield (
            False,
            f"no answers: {head}",
            "the model is loaded without a head, for its hidden states",
        )


class _SavedByAdapterHub(Method):
    """Method of an adapter that was trained with AdapterHub's library."""

    config: dict[str, object]
    """The content of the adapter's adapter_config.json."""
    layers: dict[str, str] = {}
    """Name of a head's linear layer in the file -> its name in the model; empty without a head."""

    def refuses_merging(self, base: Base) -> str | None:
        return "a bottleneck adapter is not linear, and cannot be merged into weights"

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        raise MethodError("AdapterHub adapters can be loaded, but not trained further")

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...]) -> nn.Module:
        from peftkit.methods.peft.layout import WEIGHTS, load_peft

        with tempfile.TemporaryDirectory(prefix="peftkit-") as name:
            made = Path(name)
            settings = HubSettings.of(AdapterConfig(self.config))
            write_as_peft(settings, self.layers, folder, made, model)
            try:
                return load_peft(model, made)
            except AdapterError as error:
                message = layer_mismatch(names_in(_first(folder, ADAPTER_WEIGHTS)), model)
                message += error.message.replace(f"/{WEIGHTS}", "").replace(name, f"{folder}")
                raise AdapterError(f"{message} (tensor names as in peftkit)", error.hint) from error


def write_as_peft(
    settings: HubSettings, layers: dict[str, str], folder: Path, made: Path, model: Any
) -> None:
    """Writes an AdapterHub adapter in PEFT's format, with the tensor names of a model.

    Args:
        layers: names of the head's layers, as in `HubHead.layers`.
        made: the folder to write to.

    Raises:
        AdapterError: a tensor is not part of a bottleneck adapter, or contradicts the settings.
    """
    from safetensors.torch import load_file, save_file

    from peftkit.methods.peft.layout import WEIGHTS

    _check_base(settings, model)
    trunk = f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""
    tensors = _renamed(load_file(_first(folder, ADAPTER_WEIGHTS)), settings, trunk)
    if {len(t) for n, t in tensors.items() if n.endswith("_down.weight")} != {settings.width}:
        raise AdapterError(
            f"the adapter's settings give bottlenecks of width {settings.width}, but its tensors "
            "have another width",
            "ask whoever published it",
        )
    if layers:
        tensors |= _head_tensors(load_file(_first(folder, HEAD_WEIGHTS)), layers)
    _bottleneck_config(settings, layers, model).save_pretrained(str(made))
    save_file(
        {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()},
        made / WEIGHTS,
    )


def _check_base(settings: HubSettings, model: Any) -> None:
    """Raises AdapterError unless a model has the adapter's architecture and hidden size."""
    if model.config.model_type != settings.model_type:
        raise AdapterError(
            f"the adapter is for {settings.model_type} models, and the base is a "
            f"{model.config.model_type} model",
            "give the base it was trained on with `--base`",
        )
    if model.config.hidden_size != settings.hidden_size:
        raise AdapterError(
            f"the adapter is for hidden states of size {settings.hidden_size}, and the base has "
            f"hidden states of size {model.config.hidden_size}",
            "give the base it was trained on with `--base`",
        )


def _bottleneck_config(
    settings: HubSettings, layers: dict[str, str], model: Any
) -> BottleneckConfig:
    """The PEFT configuration of a converted AdapterHub adapter.

    Args:
        layers: names of the head's layers, as in `HubHead.layers`.

    Raises:
        AdapterError: PEFT refuses the settings.
    """
    from peftkit.methods.bottleneck_tuner import BottleneckConfig

    try:
        return BottleneckConfig(
            task_type="SEQ_CLS" if layers else None,
            placement=settings.placement,
            reduction_factor=model.config.hidden_size / settings.width,
            non_linearity=settings.non_linearity,
            scaling=1.0 if settings.scaling is None else float(settings.scaling),
            ln_before=settings.ln_before,
            target_modules=_targets(settings, model.config.num_hidden_layers),
            modules_to_save=["bert.pooler"] if "bert.pooler.dense" in layers.values() else None,
            inference_mode=True,
        )
    except ValueError as error:
        raise AdapterError(f"PEFT refuses the adapter's settings: {error}") from error


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    return next(file for name in names if (file := folder / name).is_file())


def _targets(settings: HubSettings, num_layers: int) -> list[str]:
    """Names of the modules to adapt: `dense` layers if `houlsby`, their parents if not."""
    ends = [OF_A_BLOCK[name] for name in settings.places]
    ends = [f"{end}.dense" if settings.placement == "houlsby" else end for end in ends]
    return [
        f"encoder.layer.{number}.{end}"
        for number in range(num_layers)
        if number not in settings.left_out
        for end in ends
    ]


def _renamed(saved: dict[str, Tensor], settings: HubSettings, trunk: str) -> dict[str, Tensor]:
    """The tensors under their names in `bottleneck_tuner`, each `up` multiplied by its learned
    scaling.
    """
    dense = ".dense" if settings.placement == "houlsby" else ""
    down = "adapter_down.1" if settings.ln_before else "adapter_down.0"
    parts = {down: "bottleneck_down", "adapter_up": "bottleneck_up"}
    if settings.ln_before:
        parts |= {"adapter_down.0": "bottleneck_norm", "adapter_norm_before": "bottleneck_norm"}
    place = re.compile(
        rf"(?:[a-z_]+\.)?(encoder\.layer\.\d+\.(?:attention\.)?output)\.(?:{'|'.join(CONTAINERS)})"
        rf"\.{re.escape(settings.name)}\.(.+)"
    )
    made: dict[str, Tensor] = {}
    scaling: dict[str, Tensor] = {}
    wrong = []
    for name, tensor in saved.items():
        match = place.fullmatch(name)
        block = f"{trunk}{match[1]}{dense}" if match else ""
        part, _, kind = match[2].rpartition(".") if match else ("", "", "")
        if match and match[2] == "scaling" and settings.scaling is None:
            scaling[block] = tensor
        elif part not in parts or kind not in ("weight", "bias"):
            wrong.append(name)
        elif (new := f"{block}.{parts[part]}.{kind}") in made and not tensor.equal(made[new]):
            wrong.append(name)  # one norm under two names, with two values
        else:
            made[new] = tensor
    if wrong:
        raise AdapterError(
            f"{quoted(wrong, 4)} is no tensor of a bottleneck adapter named `{settings.name}`",
            "load it with the `adapters` library, which wrote it",
        )
    if settings.scaling is None:
        _scale(made, scaling)
    return made


def _scale(made: dict[str, Tensor], scaling: dict[str, Tensor]) -> None:
    """Multiplies each `up` by its learned scaling: one factor, or one factor for each output.

    Raises:
        AdapterError: a scaling is missing, or its shape does not fit.
    """
    blocks = {name.rsplit(".", 2)[0] for name in made}
    if missing := sorted(blocks - scaling.keys()):
        raise AdapterError(f"the adapter lacks the learned scaling of {quoted(missing, 3)}")
    for block, factors in scaling.items():
        for kind in ("weight", "bias"):
            up = made.get(f"{block}.bottleneck_up.{kind}")
            if up is None or tuple(factors.shape) not in ((1,), (len(up),)):
                raise AdapterError(
                    f"the learned scaling of `{block}` does not fit its `up` in shape"
                )
            made[f"{block}.bottleneck_up.{kind}"] = factors.view(-1, *[1] * (up.dim() - 1)) * up


def _head_tensors(saved: dict[str, Tensor], layers: dict[str, str]) -> dict[str, Tensor]:
    made = {}
    for name, tensor in saved.items():
        layer, _, kind = name.rpartition(".")
        if layer not in layers:
            raise AdapterError(f"`{name}` is in none of the head's layers, {quoted(layers)}")
        made[f"{layers[layer]}.{kind}"] = tensor
    return made
