"""AdapterHub's adapters on transformers' models: written anew as bottleneck adapters of peftkit's.

    [bert.]encoder.layer.3.output.adapters.NAME.adapter_down.0.weight
      -> base_model.model.[bert.]encoder.layer.3.output.bottleneck_down.weight

`adapterhub_format` has the formulas. A learned scaling goes into `up`, where it makes the same
function. A head is taken over where transformers' own classifier is the same function.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.adapters.inspection.adapterhub_format import (
    ADAPTER_WEIGHTS,
    HEAD_WEIGHTS,
    described,
    placement,
    settings_of,
    width,
)
from peftkit.adapters.inspection.inspected import Inspected
from peftkit.adapters.published.detection import names_in, other_layers
from peftkit.errors import AdapterError, MethodError, quoted
from peftkit.methods.method import Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peftkit.bases.base import Base
    from peftkit.data.encoded import Encoded

OF_A_BLOCK = {"mh_adapter": "attention.output", "output_adapter": "output"}
CONTAINERS = (
    "adapters", "attention_text_task_adapters", "attention_text_lang_adapters",
    "layer_text_task_adapters", "layer_text_lang_adapters",
)  # fmt: skip
"""Names of the library's ModuleDicts, the older ones after today's."""
CLASSIFIERS: dict[tuple[Any, ...], tuple[str, ...]] = {
    ("bert", 1, None, True): ("classifier",),
    ("bert", 2, "tanh", False): ("bert.pooler.dense", "classifier"),
    ("roberta", 2, "tanh", False): ("classifier.dense", "classifier.out_proj"),
    ("xlm-roberta", 2, "tanh", False): ("classifier.dense", "classifier.out_proj"),
    ("electra", 2, "gelu", False): ("classifier.dense", "classifier.out_proj"),
}
"""(architecture, layers, activation between them, whether the pooler is read) of the library's
classifiers -> the linear layers of transformers' `...ForSequenceClassification`, where that
computes the same; BERT's pooler is what the library's first layer is: tanh(linear(first token))."""
OWN_CLASSES = {
    "BertForSequenceClassification": ("classifier",),
    "RobertaForSequenceClassification": ("classifier.dense", "classifier.out_proj"),
    "XLMRobertaForSequenceClassification": ("classifier.dense", "classifier.out_proj"),
    "ElectraForSequenceClassification": ("classifier.dense", "classifier.out_proj"),
}
"""Classes of transformers with a head of their own, which the library saves under its own names."""


@dataclass(frozen=True)
class HubHead:
    """A classifier that was saved beside an adapter."""

    labels: tuple[str, ...]
    layers: dict[str, str]
    """Linear layer in the file -> in transformers' model."""


def hub_head(found: Inspected) -> HubHead | str:
    """The head of an AdapterHub folder, or why there is none to be loaded."""
    config, saved = found.config or {}, found.head
    if saved is None:
        return "it was saved without a head"
    tensors = next((found.tensors[n] for n in HEAD_WEIGHTS if n in found.tensors), None)
    if tensors is None:
        return "the weights of its head are not in the folder"
    head = saved.get("config")
    if isinstance(head, dict):
        layers = _layers(head, str(config.get("model_type")), str(saved.get("name")))
    else:  # a class of transformers with its own head
        head, kind = saved, str(saved.get("model_class"))
        own = OWN_CLASSES.get(kind)
        layers = f"its head is that of `{kind[:60]}`" if own is None else {n: n for n in own}
    if isinstance(layers, str):
        return layers
    number = head.get("num_labels")
    if type(number) is not int or number < 1:
        return f"its head has {str(number)[:20]} labels, and gives numbers, not classes"
    last = tensors.get(f"{[*layers][-1]}.weight")
    if last is None or last.shape[:1] != (number,):
        what = "one label, and gives numbers, not classes," if number == 1 else f"{number} labels,"
        return f"its head has {what} and its last layer is for others or is missing"
    return HubHead(_labels(head.get("label2id"), number), layers)


def _layers(head: dict[str, Any], model_type: str, name: str) -> dict[str, str] | str:
    """Of one of the library's own heads, as `HubHead.layers`; or why it is not loaded."""
    if head.get("head_type") != "classification":
        return f"its head is one for `{str(head.get('head_type'))[:60]}`"
    count, activation = head.get("layers"), head.get("activation_function")
    if not isinstance(count, int) or not isinstance(activation, str | None):
        return f"its head has {str(count)[:20]} layers and `{str(activation)[:20]}` between them"
    pooled = bool(head.get("use_pooler"))
    own = CLASSIFIERS.get((model_type, count, activation if count != 1 else None, pooled))
    if own is None or head.get("bias") is False:
        return (
            f"its head has {str(count)[:20]} layers, `{str(activation)[:20]}` between them and "
            f"{'a' if pooled else 'no'} pooler before them, which is not the classifier that "
            f"transformers gives {model_type} models"
        )
    return {f"heads.{name}.{3 * n + 1}": layer for n, layer in enumerate(own)}


def _labels(ids: Any, number: int) -> tuple[str, ...]:
    if isinstance(ids, dict) and sorted(map(str, ids.values())) == sorted(map(str, range(number))):
        return tuple(sorted(ids, key=lambda label: int(ids[label])))
    return tuple(f"LABEL_{n}" for n in range(number))


def explained(found: Inspected) -> Iterator[tuple[bool, str, str]]:
    """What is known of an AdapterHub folder, as `published.other_fields` tells it."""
    assert found.config is not None
    yield (
        False,
        f"an AdapterHub adapter: {described(found.config)}",
        "converted to a bottleneck adapter of peftkit",
    )
    if isinstance(head := hub_head(found), str):
        yield (
            False,
            f"no answers: {head}",
            "what is loaded is the model without a head, for its hidden states",
        )


class _SavedByAdapterHub(Method):
    """What AdapterHub's library trained."""

    config: dict[str, Any]
    """The content of its adapter_config.json."""
    layers: dict[str, str] = {}
    """Of its head: linear layer in the file -> in transformers' model; empty if none is loaded."""

    def supports_merging(self, base: Base) -> str | None:
        return "a bottleneck adapter is not linear, and cannot be merged into weights"

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        raise MethodError("adapters of AdapterHub's are loaded, not trained further")

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...]) -> nn.Module:
        from peftkit.methods.peft_layout import WEIGHTS, load_peft

        with tempfile.TemporaryDirectory(prefix="peftkit-") as name:
            made = Path(name)
            write_as_peft(self.config, self.layers, folder, made, model)
            try:
                return load_peft(model, made)
            except AdapterError as error:
                told = other_layers(names_in(_first(folder, ADAPTER_WEIGHTS)), model)
                told += error.message.replace(f"/{WEIGHTS}", "").replace(name, f"{folder}")
                raise AdapterError(f"{told} (in peftkit's names)", error.hint) from error


def write_as_peft(
    config: dict[str, Any], layers: dict[str, str], folder: Path, made: Path, model: Any
) -> None:
    """Writes an AdapterHub folder as PEFT's format, for a model.

    Args:
        layers: of the head, see `_SavedByAdapterHub`.
        made: where it is written to.

    Raises:
        AdapterError: a tensor is none of a bottleneck adapter's, or the settings do not fit.
    """
    from safetensors.torch import load_file, save_file

    from peftkit.methods.bottleneck_tuner import BottleneckConfig
    from peftkit.methods.peft_layout import WEIGHTS

    settings = settings_of(config)
    if model.config.model_type != config.get("model_type"):
        raise AdapterError(
            f"it is for {config.get('model_type')} models, and the base is one of "
            f"{model.config.model_type}",
            "give the base that it was trained on with `--base`",
        )
    hidden = model.config.hidden_size
    if hidden != config["hidden_size"]:
        raise AdapterError(
            f"it is for hidden states of {config['hidden_size']} numbers, and those of "
            f"{type(model).__name__} have {hidden}",
            "give the base that it was trained on with `--base`",
        )
    trunk = f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""
    tensors = _renamed(load_file(_first(folder, ADAPTER_WEIGHTS)), config, trunk)
    if {len(t) for n, t in tensors.items() if n.endswith("_down.weight")} != {width(config)}:
        raise AdapterError(
            f"its settings say that a bottleneck is {width(config)} wide, and its tensors are not",
            "ask whoever published it",
        )
    if layers:
        tensors |= _head_tensors(load_file(_first(folder, HEAD_WEIGHTS)), layers)
    scaling = settings["scaling"]
    try:
        made_config = BottleneckConfig(
            task_type="SEQ_CLS" if layers else None,
            placement=placement(settings),
            reduction_factor=hidden / width(config),
            non_linearity=settings["non_linearity"],
            scaling=1.0 if isinstance(scaling, str) else float(scaling),
            ln_before=bool(settings["ln_before"]),
            target_modules=_targets(settings, model.config.num_hidden_layers),
            modules_to_save=["bert.pooler"] if "bert.pooler.dense" in layers.values() else None,
            inference_mode=True,
        )
    except ValueError as error:
        raise AdapterError(f"its settings do not fit: {error}") from error
    made_config.save_pretrained(str(made))
    save_file(
        {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()},
        made / WEIGHTS,
    )


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    return next(file for name in names if (file := folder / name).is_file())


def _targets(settings: dict[str, Any], num_layers: int) -> list[str]:
    """Names of the adapted modules; in a houlsby adapter the linear layer before the norm."""
    place = placement(settings)
    ends = [end for name, end in OF_A_BLOCK.items() if settings[name]]
    ends = [f"{end}.dense" if place == "houlsby" else end for end in ends]
    left_out = settings["leave_out"] or ()
    return [
        f"encoder.layer.{number}.{end}"
        for number in range(num_layers)
        if number not in left_out
        for end in ends
    ]


def _renamed(saved: dict[str, Tensor], config: dict[str, Any], trunk: str) -> dict[str, Tensor]:
    """The adapter's tensors by the names of `bottleneck_tuner`, a learned scaling in `up`."""
    settings = settings_of(config)
    dense = ".dense" if placement(settings) == "houlsby" else ""
    down = "adapter_down.1" if settings["ln_before"] else "adapter_down.0"
    parts = {down: "bottleneck_down", "adapter_up": "bottleneck_up"}
    if settings["ln_before"]:
        parts |= {"adapter_down.0": "bottleneck_norm", "adapter_norm_before": "bottleneck_norm"}
    place = re.compile(
        rf"(?:[a-z_]+\.)?(encoder\.layer\.\d+\.(?:attention\.)?output)\.(?:{'|'.join(CONTAINERS)})"
        rf"\.{re.escape(config['name'])}\.(.+)"
    )
    made: dict[str, Tensor] = {}
    scaling: dict[str, Tensor] = {}
    wrong = []
    for name, tensor in saved.items():
        found = place.fullmatch(name)
        block = f"{trunk}{found[1]}{dense}" if found else ""
        part, _, kind = found[2].rpartition(".") if found else ("", "", "")
        if found and found[2] == "scaling" and isinstance(settings["scaling"], str):
            scaling[block] = tensor
        elif part not in parts or kind not in ("weight", "bias"):
            wrong.append(name)
        elif (new := f"{block}.{parts[part]}.{kind}") in made and not tensor.equal(made[new]):
            wrong.append(name)  # the same norm under two names
        else:
            made[new] = tensor
    if wrong:
        raise AdapterError(
            f"{quoted(wrong, 4)} is no tensor of such an adapter named `{config['name']}`",
            "load it with the `adapters` library, which wrote it",
        )
    if isinstance(settings["scaling"], str):
        _scale(made, scaling)
    return made


def _scale(made: dict[str, Tensor], scaling: dict[str, Tensor]) -> None:
    """Multiplies what each `up` puts out by its learned factors, one or one for each number.

    Raises:
        AdapterError: some are missing, or of another shape.
    """
    blocks = {name.rsplit(".", 2)[0] for name in made}
    if missing := sorted(blocks - scaling.keys()):
        raise AdapterError(f"the learned scaling of {quoted(missing, 3)} is not in it")
    for block, factors in scaling.items():
        for kind in ("weight", "bias"):
            up = made.get(f"{block}.bottleneck_up.{kind}")
            if up is None or tuple(factors.shape) not in ((1,), (len(up),)):
                raise AdapterError(f"the learned scaling of `{block}` does not fit its `up`")
            made[f"{block}.bottleneck_up.{kind}"] = factors.view(-1, *[1] * (up.dim() - 1)) * up


def _head_tensors(saved: dict[str, Tensor], layers: dict[str, str]) -> dict[str, Tensor]:
    made = {}
    for name, tensor in saved.items():
        layer, _, kind = name.rpartition(".")
        if layer not in layers:
            raise AdapterError(f"`{name}` is no tensor of its head, {quoted(layers)}")
        made[f"{layers[layer]}.{kind}"] = tensor
    return made
