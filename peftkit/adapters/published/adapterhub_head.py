"""Maps heads saved by AdapterHub's library to transformers' classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from peftkit.adapters.inspection.adapterhub_format import HEAD_WEIGHTS
from peftkit.adapters.inspection.inspected import Inspected
from peftkit.methods.peft.adapter_config import AdapterConfig

CLASSIFIERS: dict[tuple[str, int, str | None, bool], tuple[str, ...]] = {
    ("bert", 1, None, True): ("classifier",),
    ("bert", 2, "tanh", False): ("bert.pooler.dense", "classifier"),
    ("roberta", 2, "tanh", False): ("classifier.dense", "classifier.out_proj"),
    ("xlm-roberta", 2, "tanh", False): ("classifier.dense", "classifier.out_proj"),
    ("electra", 2, "gelu", False): ("classifier.dense", "classifier.out_proj"),
}
"""Classifier of AdapterHub's library -> linear layers of the transformers classifier that computes
the same function. A key is (architecture, number of layers, activation between layers, whether the
pooler is read). BERT's pooler serves as the library's first layer, since both compute
tanh(linear(first token))."""
OWN_CLASSES = {
    "BertForSequenceClassification": ("classifier",),
    "RobertaForSequenceClassification": ("classifier.dense", "classifier.out_proj"),
    "XLMRobertaForSequenceClassification": ("classifier.dense", "classifier.out_proj"),
    "ElectraForSequenceClassification": ("classifier.dense", "classifier.out_proj"),
}
"""transformers class -> names of its head's linear layers, which AdapterHub's files also use."""


@dataclass(frozen=True)
class HubHead:
    """A classifier that AdapterHub's library saved with an adapter."""

    labels: tuple[str, ...]
    layers: dict[str, str]
    """Name of a linear layer in the file -> its name in the transformers model."""


def hub_head(inspected: Inspected) -> HubHead | str:
    """The classifier in an AdapterHub folder, or the reason why none can be loaded."""
    config, saved = inspected.config or AdapterConfig(), inspected.head
    if saved is None:
        return "it was saved without a head"
    tensors = next((inspected.tensors[n] for n in HEAD_WEIGHTS if n in inspected.tensors), None)
    if tensors is None:
        return "the weights of its head are not in the folder"
    settings = saved.get("config")
    layers: dict[str, str] | str
    if isinstance(settings, dict):
        head: Mapping[str, object] = settings
        layers = _layers(head, str(config.get("model_type")), str(saved.get("name")))
    else:  # a transformers class with a head
        head, kind = saved, str(saved.get("model_class"))
        names = OWN_CLASSES.get(kind)
        layers = f"its head is that of `{kind[:60]}`" if names is None else {n: n for n in names}
    if isinstance(layers, str):
        return layers
    number = head.get("num_labels")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        return f"its head has {str(number)[:20]} labels, and gives numbers, not classes"
    last = tensors.get(f"{[*layers][-1]}.weight")
    if last is None or last.shape[:1] != (number,):
        labels = (
            "one label, and gives numbers, not classes," if number == 1 else f"{number} labels,"
        )
        return f"its head has {labels} and its last layer has another size or is missing"
    return HubHead(_labels(head.get("label2id"), number), layers)


def _layers(head: Mapping[str, object], model_type: str, name: str) -> dict[str, str] | str:
    """`HubHead.layers` for a head of an AdapterHub class, or the reason why it cannot be loaded."""
    if head.get("head_type") != "classification":
        return f"its head is for `{str(head.get('head_type'))[:60]}`"
    count, activation = head.get("layers"), head.get("activation_function")
    if not isinstance(count, int) or not isinstance(activation, str | None):
        return f"its head has {str(count)[:20]} layers and `{str(activation)[:20]}` between them"
    pooled = bool(head.get("use_pooler"))
    names = CLASSIFIERS.get((model_type, count, activation if count != 1 else None, pooled))
    if names is None or head.get("bias") is False:
        return (
            f"its head has {str(count)[:20]} layers, `{str(activation)[:20]}` between them and "
            f"{'a' if pooled else 'no'} pooler before them, which is not the classifier that "
            f"transformers gives {model_type} models"
        )
    return {f"heads.{name}.{3 * n + 1}": layer for n, layer in enumerate(names)}


def _labels(ids: object, number: int) -> tuple[str, ...]:
    if isinstance(ids, dict) and sorted(map(str, ids.values())) == sorted(map(str, range(number))):
        return tuple(sorted(ids, key=lambda label: int(ids[label])))
    return tuple(f"LABEL_{n}" for n in range(number))
