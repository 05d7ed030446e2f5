"""What an adapter that peftkit did not save was put into: what the model was for, how many layers
it had; told by the settings, the names of the tensors and the base.
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
"""What PEFT has no name for: models that fill in masked tokens."""
ALL_HEADS = {**HEADS, MASKED_LM: "AutoModelForMaskedLM"}
HEAD_MODULES = {
    "SEQ_CLS": ("classifier", "score", "classification_head"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
"""Names of the modules above the trunk, by the kind of head."""
PART = re.compile(r"\.(?:lora|ia3|hada|lokr|oft|boft|vera|hra|miss|road|c3a|fourierft)_")
"""In the name of a tensor that PEFT puts beside a module of the base."""
LAYER = re.compile(r"\.(?:layers?|h)\.(\d+)\.")
"""The number of a block, in the name of a tensor."""


def task_type_of(found: Inspected, base: Base) -> tuple[str, str]:
    """PEFT's name of what an adapter was trained for, and how that was told where the adapter does
    not say so; empty where it does.

    Raises:
        AdapterError: it cannot be told.
    """
    config = found.config or AdapterConfig()
    named = config.text("task_type")
    if named in HEADS:
        return named, ""
    if named:
        raise AdapterError(
            f"its `task_type` is `{named}`, and PEFT has {quoted(HEADS)}",
            "set `task_type` in adapter_config.json if you know what it was trained for",
        )
    trained = config.table("auto_mapping").get("base_model_class")
    if kind := kind_of_class(str(trained)):
        return kind, f"it was trained on `{trained}`"
    opened = open_base(base)
    name = architecture(opened)
    if holds(found, HEAD_MODULES["QUESTION_ANS"]):
        return "QUESTION_ANS", "`qa_outputs` is among its tensors"
    if holds(found, HEAD_MODULES["SEQ_CLS"]):
        if kind_of_class(name) == "TOKEN_CLS":
            return "TOKEN_CLS", f"a classifier is among its tensors, and the base is {name}"
        return "SEQ_CLS", "a classifier is among its tensors"
    likely = [kind_of_class(name), "FEATURE_EXTRACTION", "CAUSAL_LM", "SEQ_2_SEQ_LM", MASKED_LM]
    for kind in dict.fromkeys(filter(None, likely)):
        if _names_fit(found, opened, kind):
            return kind, f"its tensors have the names of {ALL_HEADS[kind]} of that base"
    raise AdapterError(
        "it has no `task_type`, and its tensors have the names of no model that its base can be",
        f"give the base that it was trained on with `--base`; `{opened.name}` is another one, or "
        "has other layers",
    )


def kind_of_class(name: str) -> str:
    """What a class of transformers is for; empty if that is none of `HEADS`."""
    ends = {
        "EncoderDecoderModel": "SEQ_2_SEQ_LM", "ForConditionalGeneration": "SEQ_2_SEQ_LM",
        "ForCausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM",
        "ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS",
        "ForQuestionAnswering": "QUESTION_ANS", "Model": "FEATURE_EXTRACTION",
    }  # fmt: skip
    return next((kind for end, kind in ends.items() if name.endswith(end)), "")


def _names_fit(found: Inspected, opened: OpenedBase, kind: str) -> bool:
    """Whether an adapter's tensors begin with names of modules that a model of this kind has."""
    try:
        model = empty_model(opened, Head(ALL_HEADS[kind], kind, trained=False)).model
    except BaseModelError:  # the architecture has no such head
        return False
    children = {name for name, _ in model.named_children()}
    names = [name for name in tensor_names(found) if name.startswith("base_model.")]
    inner = [name.removeprefix("base_model.model.") for name in names]
    return all(name.split(".")[0] in children for name in inner)


def holds(found: Inspected, modules: Iterable[str]) -> bool:
    """Whether tensors of one of the modules are in it."""
    return any(f".{module}." in f".{name}" for module in modules for name in tensor_names(found))


def tensor_names(found: Inspected) -> list[str]:
    """Of all tensors of an adapter."""
    return [name for tensors in found.tensors.values() for name in tensors]


def number_of_labels(found: Inspected) -> int:
    """Outputs of the classifier that is whole in an adapter; 0 if there is none."""
    ends = tuple(f".{name}.weight" for name in (*HEAD_MODULES["SEQ_CLS"], "out_proj"))
    for tensors in found.tensors.values():
        for name, stored in tensors.items():
            inside = name.endswith(".out_proj.weight") and "classif" not in name  # of attention
            if name.endswith(ends) and not inside and stored.shape:
                return stored.shape[0]
    return 0


def has_own_head(names: Iterable[str], task_type: str) -> bool:
    """Whether the modules above the trunk are whole in an adapter. A LoRA of them is not: it is
    beside the base's own.

    Args:
        names: of its tensors.
    """
    modules = HEAD_MODULES.get(task_type, ())
    whole = [n for n in names if n.endswith((".weight", ".bias")) and not PART.search(n)]
    return any(f".{module}." in f".{name}" for module in modules for name in whole)


def has_classifier(base: OpenedBase) -> bool:
    """Whether a base says that it is a classifier; loading its weights tells whether it has one."""
    return kind_of_class(architecture(base)) == "SEQ_CLS"


def architecture(base: OpenedBase) -> str:
    """The class that the base was saved as; empty if it does not say."""
    return str((getattr(base.config, "architectures", None) or [""])[0])


def other_layers(names: Iterable[str], base: Any) -> str:
    """In words, that adapted layers are others than a base has; empty if that is not why an adapter
    does not fit.

    Args:
        names: of the adapter's tensors.
        base: transformers' model.
    """
    here = _num_layers(base.config)
    numbers = {int(found[1]) for name in names if (found := LAYER.search(name))}
    if here is None or not numbers or max(numbers) + 1 == here:
        return ""
    return f"the base has {here} layers, and the adapter is for {max(numbers) + 1}: "


def check_num_layers(config: AdapterConfig, base: Any) -> None:
    """Raises AdapterError where virtual tokens are for another number of layers than the base has,
    which no name of a tensor tells.
    """
    there, here = config.whole("num_layers"), _num_layers(base.config)
    if there is not None and here is not None and there != here:
        raise AdapterError(
            f"the base has {here} layers, and the adapter is for {there}",
            "give the base that it was trained on with `--base`",
        )


def _num_layers(config: Any) -> int | None:
    """Of a model with one stack of blocks."""
    if config.is_encoder_decoder or config.get_text_config() is not config:
        return None
    return getattr(config, "num_hidden_layers", None)


def names_in(file: Path) -> tuple[str, ...]:
    """Of the tensors of a safetensors file; none if there is no file."""
    return tuple(read_header(file)) if file.is_file() else ()
