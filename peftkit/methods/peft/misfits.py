"""Translates PEFT's errors about a model into errors that name the recipe's fields."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from peft.utils import ModulesToSaveWrapper
from torch import nn

from peftkit.bases.quantizing import is_quantized
from peftkit.errors import MethodError, did_you_mean, quoted
from peftkit.methods.peft.types import kind_of
from peftkit.methods.targets.layers import ends_in, last_names
from peftkit.methods.targets.targets import ALL_LINEAR

NAMES = {
    "LORA": "LoRA", "ADALORA": "AdaLoRA", "BOTTLENECK": "BottleneckAdapter",
    "PROMPT_TUNING": "PromptTuning", "P_TUNING": "PTuning", "PREFIX_TUNING": "PrefixTuning",
}  # fmt: skip
"""PEFT's name of a tuner -> peftkit's name of the method."""
LONGEST = 300
"""Maximum number of characters of PEFT's message that an error shows."""
EXCLUDED = re.compile("All modules were excluded|No modules were targeted")
UNKNOWN = re.compile(r"Please specify `(\w+)`.* ?in `peft_config`")
NOT_SUPPORTED = re.compile(r"Target module (?:of type )?(?:<class '[\w.]*?)?(\w+)[('\s]")
MAMBA = re.compile(r"Module '(\w+)' is incompatible with Mamba")


def misfit(
    error: Exception, model: nn.Module, layers: Sequence[str], config: Any, field: str
) -> MethodError:
    """Returns a MethodError that explains an error of PEFT about a model.

    Args:
        model: the model after the failed injection.
        layers: names of the model's linear layers before the injection.
        field: name of the recipe's field that holds the configuration.
    """
    message = " ".join(str(error).split()) or type(error).__name__
    tuner, name = kind_of(config), type(model).__name__
    kind, linear = NAMES.get(tuner, tuner), quoted(last_names(layers))
    unknown = UNKNOWN.search(message)
    if unknown and config.is_prompt_learning:
        message = f"its configuration has no `{unknown[1]}`, which PEFT needs"
    elif unknown and tuner != "LN_TUNING":
        return MethodError(
            f"PEFT has no default `{unknown[1]}` of {kind} for {name}",
            f"give `{field}.{unknown[1]}`; the model's linear layers are {linear}",
        )
    elif EXCLUDED.match(message):
        return MethodError(
            f"`{field}.exclude_modules` leaves nothing of `{field}.target_modules`",
            "remove names from one of them",
        )
    elif layer := MAMBA.search(message):
        return MethodError(
            f"`{field}.target_modules`: PEFT does not adapt `{layer[1]}` of {name}",
            f"name layers that it adapts, {linear}, or give `{ALL_LINEAR}` for all of them",
        )
    elif layer := NOT_SUPPORTED.match(message):
        return MethodError(
            f"`{field}.target_modules`: PEFT's {tuner} cannot adapt a {layer[1]} of {name}",
            _hint_without(layer[1], linear, field),
        )
    hints = {
        "LORA": f"correct that in `{field}`; the model's linear layers are {linear}",
        "BOTTLENECK": f"name the modules to adapt with `{field}.target_modules`, or use LoRA",
        "LN_TUNING": "use LayerNormTuning",
    }
    hint = hints.get(tuner, "use LoRA")
    return MethodError(f"PEFT cannot put {kind} into {name}: {message[:LONGEST]}", hint)


def _hint_without(layer: str, linear: str, field: str) -> str:
    if layer == "Conv1D":  # GPT-2's linear layers
        return "use LoRA"
    return f"name only linear layers with `{field}.target_modules`: {linear}"


def check_trainable(model: nn.Module, wanted: Sequence[str], field: str) -> None:
    """Raises MethodError if a module to be trained whole is quantized.

    Args:
        wanted: names of the modules to train whole (`modules_to_save`).
    """
    for name, module in model.named_modules():
        meant = any(ends_in(name, one) for one in wanted)
        if meant and any(is_quantized(part) for part in module.modules()):
            raise MethodError(
                f"`{field}.modules_to_save`: `{name}` is quantized, and cannot be trained whole",
                f"name it in `{field}.target_modules` instead, or leave `base.quantization` out",
            )


def check_saved_modules(model: nn.Module, wanted: Sequence[str], field: str) -> None:
    """Raises MethodError unless PEFT trains exactly the wanted modules whole. PEFT compares only
    the ends of names, so for `head` it also trains `mlp_head`; and it ignores a misspelled name.
    """
    prefixes = ("base_model.model.", "base_model.")
    trained = []
    for name, module in model.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            prefix = next((p for p in prefixes if name.startswith(p)), "")
            trained.append(name.removeprefix(prefix))
    fits = {w: [n for n in trained if n == w or n.endswith(f".{w}")] for w in wanted}
    missing = [w for w, names in fits.items() if not names and w not in ("classifier", "score")]
    if missing:
        known = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
        raise MethodError(
            f"`{field}.modules_to_save`: the model has no {quoted(missing)}",
            did_you_mean(missing[0], known) or "name a module of the base",
        )
    if extra := set(trained) - {name for names in fits.values() for name in names}:
        raise MethodError(
            f"PEFT mistakes {quoted(sorted(extra))} for the head {quoted(dict.fromkeys(wanted))}, "
            "and would save both",
            "use LoRA" if all("prompt_encoder" in name for name in extra) else "use HeadOnly",
        )
