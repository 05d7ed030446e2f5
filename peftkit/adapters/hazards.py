"""What in an adapter's settings and templates could run for ever, fill the memory, or run code.

Judged by looking at the text only: nothing is compiled or rendered here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from re import _parser  # type: ignore[attr-defined]
from typing import Any

PATTERNS = ("target_modules", "exclude_modules", "layers_pattern", "target_parameters")
"""Fields of PEFT's configurations that are regular expressions where they are texts."""
PATTERN_KEYS = ("rank_pattern", "alpha_pattern")
"""Those whose keys are."""
RUN_CODE = {
    "megatron_config": "PEFT would import the module that `megatron_core` names",
    "auto_mapping": "PEFT would import the class that it names",
    "custom_modules": "PEFT would use classes that it names",
}
LIMITS = {
    "r": 4096, "init_r": 4096, "target_r": 4096, "num_virtual_tokens": 8192, "num_layers": 512,
    "num_attention_heads": 512, "token_dim": 65536, "encoder_hidden_size": 65536,
    "encoder_num_layers": 64, "num_transformer_submodules": 4,
}  # fmt: skip
"""Above these, settings are taken for a mistake or an attack: memory grows with them."""
MOST_LAYERS = 512
LONGEST_PATTERN = 2000
MOST_REPEATS = 8
"""Unbounded repeats in one pattern; each multiplies the time by a name's length."""
LONGEST_TEMPLATE = 200_000
DEEPEST_LOOP = 4
LARGEST_NUMBER = 10_000


def wrong_settings(config: dict[str, Any]) -> Iterator[str]:
    """Why an adapter_config.json must not be given to PEFT."""
    for name, why in RUN_CODE.items():
        if config.get(name):
            yield f"`{name}` is set: {why}"
    if config.get("megatron_core") not in (None, "", "megatron.core"):  # as PEFT writes it
        yield f"`megatron_core` is {config['megatron_core']!r}: PEFT could import it as a module"
    yield from _wrong_numbers(config)
    for name in PATTERN_KEYS:
        for key, value in _items(config.get(name)):
            ranks = value if isinstance(value, list) else [value]  # AdaLoRA's are lists
            if not all(isinstance(n, int | float) and 0 <= n <= LIMITS["r"] for n in ranks):
                yield f"`{name}` of `{key}` is {value!r}"
            yield from _wrong_pattern(name, key)
    for name in PATTERNS:
        if isinstance(pattern := config.get(name), str) and pattern != "all-linear":
            yield from _wrong_pattern(name, pattern)
    yield from _wrong_replication(config.get("layer_replication"))


def _wrong_numbers(config: dict[str, Any]) -> Iterator[str]:
    for name, most in LIMITS.items():
        if (value := config.get(name)) is not None:
            if type(value) is not int or value < 0:
                yield f"`{name}` is {value!r}, and must be a whole number"
            elif value > most:
                yield f"`{name}` is {value:,}; {most:,} is the most that is loaded"
    alpha = config.get("lora_alpha")
    if alpha is not None and not (isinstance(alpha, int | float) and math.isfinite(alpha)):
        yield f"`lora_alpha` is {alpha!r}"


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _wrong_replication(ranges: Any) -> Iterator[str]:
    if not ranges:
        return
    try:
        layers = sum(end - start for start, end in ranges)
    except (TypeError, ValueError):
        yield f"`layer_replication` is {ranges!r}"
        return
    if layers > MOST_LAYERS:
        yield f"`layer_replication` makes {layers:,} layers; {MOST_LAYERS} are the most"


def _wrong_pattern(name: str, pattern: str) -> Iterator[str]:
    shown = pattern if len(pattern) <= 60 else f"{pattern[:57]}..."
    if len(pattern) > LONGEST_PATTERN:
        yield f"`{name}` is a pattern of {len(pattern):,} characters"
        return
    try:
        parsed = _parser.parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        yield f"`{name}` is `{shown}`, which is no regular expression: {error}"
        return
    repeats = list(_repeats(parsed, within=False))
    if any(nested for nested in repeats):
        yield f"`{name}` is `{shown}`: repeats within repeats can take for ever"
    elif len(repeats) > MOST_REPEATS:
        yield f"`{name}` is `{shown}`: {len(repeats)} open repeats take too long"


def _repeats(parsed: Any, within: bool) -> Iterator[bool]:
    """For each open repeat of a parsed pattern, whether it lies within another one; a choice within
    one counts too, for its sides may fit the same text.
    """
    for operation, argument in parsed:
        name = str(operation)
        if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            _, most, inner = argument
            is_open = most > 1
            if (is_open and most > MOST_REPEATS) or within:
                yield within
            yield from _repeats(inner, within or is_open)
        elif name == "SUBPATTERN":
            yield from _repeats(argument[3], within)
        elif name == "BRANCH":
            if within:
                yield True
            for side in argument[1]:
                yield from _repeats(side, within)
        elif name in ("ASSERT", "ASSERT_NOT"):
            yield from _repeats(argument[1], within)
        elif name in ("ATOMIC_GROUP",):
            yield from _repeats(argument, within)
        elif name == "GROUPREF_EXISTS":
            for side in argument[1:]:
                yield from _repeats(side or (), within)
        elif name == "GROUPREF" and within:
            yield True


def wrong_template(template: str) -> Iterator[str]:
    """Why a chat template must not be rendered: Jinja has no endless loop, but long ones."""
    if len(template) > LONGEST_TEMPLATE:
        yield f"it has {len(template):,} characters"
        return
    code = " ".join(re.findall(r"\{[%{](.*?)[%}]\}", template, re.DOTALL))
    plain = re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", "''", code)
    if numbers := [n for n in re.findall(r"\b\d[\d_]*\b", plain) if _large(n)]:
        yield f"it has the number {numbers[0][:20]}; {LARGEST_NUMBER:,} is the largest that may be"
    if "**" in plain:
        yield "it has powers"
    depth, ranges = 0, 0
    open_loops: list[bool] = []
    for word, rest in re.findall(r"\{%-?\s*(for|endfor)\b(.*?)%\}", template, re.DOTALL):
        if word == "for":
            open_loops.append("range" in rest)
        elif open_loops:
            open_loops.pop()
        depth, ranges = max(depth, len(open_loops)), max(ranges, sum(open_loops))
    if depth > DEEPEST_LOOP:
        yield f"it has loops in loops, {depth} deep"
    if ranges > 1:
        yield "it has loops over ranges in loops over ranges"


def _large(number: str) -> bool:
    digits = number.replace("_", "")
    return len(digits) > len(str(LARGEST_NUMBER)) or int(digits) > LARGEST_NUMBER
