"""Detects the task type and the number of layers of another program's adapter.

Reads the adapter's settings and tensor names, and its base.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peftkit.adapters.inspection.headers import read_header
from peftkit.adapters.inspection.inspected import Inspected
from peftkit.bases.base import Base
from peftkit.bases.loading import empty_model
from peftkit.bases.opened import OpenedBase
from peftkit.bases.opening import open_base
from peftkit.data.head import Head
from peftkit.errors import AdapterError, BaseModelError, quoted
from peftkit.methods.peft.adapter_config import AdapterConfig

HEADS = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": "AutoModel",
}
MASKED_LM = "MASKED_LM"
"""peftkit's task type for models that fill in masked tokens; PEFT has no such type."""
ALL_HEADS = {**HEADS, MASKED_LM: "AutoModelForMaskedLM"}
HEAD_MODULES = {
    "SEQ_CLS": ("classifier", "score", "classification_head"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
"""Task type -> names of the head modules (above the trunk) in models for this task."""
PART = re.compile(r"\.(?:lora|ia3|hada|lokr|oft|boft|vera|hra|miss|road|c3a|fourierft)_")
"""Matches names of tensors that PEFT adds to a module of the base."""
LAYER = re.compile(r"\.(?:layers?|h)\.(\d+)\.")
"""Matches the index of a block in a tensor's name."""


def task_type_of(inspected: Inspected, base: Base) -> tuple[str, str]:
    """Detects the task type of an adapter.

    Returns:
        The task type, and a text on how it was detected; the text is empty if the adapter names
        its task type.

    Raises:
        AdapterError: the task type cannot be detected.
    """
    config = inspected.config or AdapterConfig()
    task_type = config.text("task_type")
    if task_type in HEADS:
        return task_type, ""
    if task_type:
        raise AdapterError(
            f"the adapter's `task_type` is `{task_type}`; PEFT's types are {quoted(HEADS)}",
            "if you know what it was trained for, set `task_type` in adapter_config.json",
        )
    model_class = config.table("auto_mapping").get("base_model_class")
    if kind := kind_of_class(str(model_class)):
        return kind, f"it was trained on `{model_class}`"
    opened = open_base(base)
    name = architecture(opened)
    if holds(inspected, HEAD_MODULES["QUESTION_ANS"]):
        return "QUESTION_ANS", "`qa_outputs` is among its tensors"
    if holds(inspected, HEAD_MODULES["SEQ_CLS"]):
        if kind_of_class(name) == "TOKEN_CLS":
            return "TOKEN_CLS", f"a classifier is among its tensors, and the base is {name}"
        return "SEQ_CLS", "a classifier is among its tensors"
    likely = [kind_of_class(name), "FEATURE_EXTRACTION", "CAUSAL_LM", "SEQ_2_SEQ_LM", MASKED_LM]
    for kind in dict.fromkeys(filter(None, likely)):
        if _names_fit(inspected, opened, kind):
            return kind, f"its tensors have the names of {ALL_HEADS[kind]} for that base"
    raise AdapterError(
        f"the adapter has no `task_type`, and its tensors fit no model of `{opened.name}`",
        "give the base it was trained on with `--base`",
    )


def kind_of_class(name: str) -> str:
    """The task type of a transformers class, judged by its name; empty if unknown."""
    ends = {
        "EncoderDecoderModel": "SEQ_2_SEQ_LM", "ForConditionalGeneration": "SEQ_2_SEQ_LM",
        "ForCausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM",
        "ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS",
        "ForQuestionAnswering": "QUESTION_ANS", "Model": "FEATURE_EXTRACTION",
    }  # fmt: skip
    return next((kind for end, kind in ends.items() if name.endswith(end)), "")


def _names_fit(inspected: Inspected, opened: OpenedBase, kind: str) -> bool:
    """Whether a base's model for this task type has the modules that the adapter's tensors name."""
    try:
        model = empty_model(opened, Head(ALL_HEADS[kind], kind, trained=False)).model
    except BaseModelError:  # the architecture has no such head
        return False
    children = {name for name, _ in model.named_children()}
    names = [name for name in tensor_names(inspected) if name.startswith("base_model.")]
    inner = [name.removeprefix("base_model.model.") for name in names]
    return all(name.split(".")[0] in children for name in inner)


def holds(inspected: Inspected, modules: Iterable[str]) -> bool:
    """Whether an adapter holds a tensor of one of the given modules."""
    return any(
        f".{module}." in f".{name}" for module in modules for name in tensor_names(inspected)
    )


def tensor_names(inspected: Inspected) -> list[str]:
    """Names of all tensors in an adapter."""
    return [name for tensors in inspected.tensors.values() for name in tensors]


def number_of_labels(inspected: Inspected) -> int:
    """Number of outputs of the classifier in an adapter; 0 if it holds no whole classifier."""
    ends = tuple(f".{name}.weight" for name in (*HEAD_MODULES["SEQ_CLS"], "out_proj"))
    for tensors in inspected.tensors.values():
        for name, stored in tensors.items():
            inside = name.endswith(".out_proj.weight") and "classif" not in name  # of the attention
            if name.endswith(ends) and not inside and stored.shape:
                return stored.shape[0]
    return 0


def has_own_head(names: Iterable[str], task_type: str) -> bool:
    """Whether an adapter holds a whole head module, not only a LoRA on the base's head.

    Args:
        names: names of the adapter's tensors.
    """
    modules = HEAD_MODULES.get(task_type, ())
    whole = [n for n in names if n.endswith((".weight", ".bias")) and not PART.search(n)]
    return any(f".{module}." in f".{name}" for module in modules for name in whole)


def has_classifier(base: OpenedBase) -> bool:
    """Whether a base's config names a classifier; its weight files may still lack the head."""
    return kind_of_class(architecture(base)) == "SEQ_CLS"


def architecture(base: OpenedBase) -> str:
    """The model class that a base's config names; empty if it names none."""
    return str((getattr(base.config, "architectures", None) or [""])[0])


def layer_mismatch(names: Iterable[str], base: Any) -> str:
    """The start of an error message if adapter and base differ in number of layers; empty if not.

    Args:
        names: names of the adapter's tensors.
        base: a transformers model.
    """
    here = _num_layers(base.config)
    numbers = {int(match[1]) for name in names if (match := LAYER.search(name))}
    if here is None or not numbers or max(numbers) + 1 == here:
        return ""
    return f"the base has {here} layers, and the adapter is for {max(numbers) + 1}: "


def check_num_layers(config: AdapterConfig, base: Any) -> None:
    """Raises AdapterError if virtual tokens were trained for another number of layers.

    The config's `num_layers` is compared, since tensor names do not show this number.
    """
    saved, here = config.whole("num_layers"), _num_layers(base.config)
    if saved is not None and here is not None and saved != here:
        raise AdapterError(
            f"the base has {here} layers, and the adapter is for {saved}",
            "give the base it was trained on with `--base`",
        )


def _num_layers(config: Any) -> int | None:
    """Number of layers of a model with one stack of blocks; None for other models."""
    if config.is_encoder_decoder or config.get_text_config() is not config:
        return None
    return getattr(config, "num_hidden_layers", None)


def names_in(file: Path) -> tuple[str, ...]:
    """Names of the tensors in a safetensors file; empty if the file is missing."""
    return tuple(read_header(file)) if file.is_file() else ()
