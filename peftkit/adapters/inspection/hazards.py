"""Finds adapter settings and templates that could run forever, fill the memory, or run code.

Reads settings and templates as text; compiles and renders nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from re import _parser  # type: ignore[attr-defined]
from typing import Any

from peftkit.methods.peft.adapter_config import AdapterConfig
from peftkit.methods.peft.field_types import shown_value

PATTERNS = ("target_modules", "exclude_modules", "feedforward_modules", "target_parameters")
"""Fields of PEFT's configurations in which a string is a regular expression."""
LISTED_PATTERNS = ("layers_pattern", "modules_to_save")
"""Fields that hold one regular expression or a list of regular expressions."""
PATTERN_KEYS = ("rank_pattern", "alpha_pattern")
"""Fields whose keys are regular expressions."""
RUN_CODE = {
    "megatron_config": "PEFT would import the module that `megatron_core` names",
    "custom_modules": "PEFT would use classes that it names",
}
LIMITS = {
    "r": 4096, "init_r": 4096, "target_r": 4096, "num_virtual_tokens": 8192, "num_layers": 512,
    "num_attention_heads": 512, "token_dim": 65536, "encoder_hidden_size": 65536,
    "encoder_num_layers": 64, "num_transformer_submodules": 4,
}  # fmt: skip
"""Field that sets how much memory is used -> the field's largest allowed value. A larger value is a
mistake or an attack."""
MOST_LAYERS = 512
LONGEST_PATTERN = 2000
OPEN = 64
"""Assumed number of ways in which an unlimited repeat can match a module's name."""
MOST_TRIES = OPEN**4
LONGEST_TEMPLATE = 200_000
DEEPEST_LOOP = 4
LARGEST_NUMBER = 1_000_000
MAKES_MUCH = {
    "powers": r"\*\*", "a text times a number": r"''\s*\*|\*\s*''", "a text as a format": r"''\s*%",
    "another name for `range`": r"\brange\b(?!\s*\()", "`lipsum`": r"\blipsum\b",
}  # fmt: skip


def wrong_settings(config: AdapterConfig) -> Iterator[str]:
    """Reasons why an adapter_config.json must not be passed to PEFT."""
    for name, why in RUN_CODE.items():
        if config.get(name):
            yield f"`{name}` is set: {why}"
    if config.get("megatron_core") not in (None, "", "megatron.core"):  # as PEFT saves it
        yield f"`megatron_core` is {config['megatron_core']!r}: PEFT could import it as a module"
    yield from _wrong_numbers(config)
    yield from _wrong_mapping(config.get("auto_mapping"))
    for name in PATTERN_KEYS:
        if not isinstance(patterns := config.get(name) or {}, dict):
            yield f"`{name}` is {str(patterns)[:40]}"
            continue
        for key, value in patterns.items():
            ranks = value if isinstance(value, list) else [value]  # AdaLoRA has lists
            if not all(isinstance(n, int | float) and 0 <= n <= LIMITS["r"] for n in ranks):
                yield f"`{name}` of `{key}` is {value!r}"
            yield from _wrong_pattern(name, key)
    for name in PATTERNS:
        if isinstance(pattern := config.get(name), str) and pattern != "all-linear":
            yield from _wrong_pattern(name, pattern)
    for name in LISTED_PATTERNS:
        value = config.get(name)
        for pattern in value if isinstance(value, list) else [value or ""]:
            yield from _wrong_pattern(name, str(pattern))
    yield from _wrong_replication(config.get("layer_replication"))


def leads_elsewhere(base: str) -> bool:
    """Whether a base's name has `..` as a path component, or unprintable characters."""
    return ".." in Path(base).parts or not base.isprintable()


def _wrong_numbers(config: AdapterConfig) -> Iterator[str]:
    for name, most in LIMITS.items():
        if (value := config.get(name)) is not None:
            if type(value) is not int or value < 0:
                yield f"`{name}` is {shown_value(value)}, and must be a whole number"
            elif value > most:
                yield f"`{name}` is {value:,}; the maximum is {most:,}"
    alpha = config.get("lora_alpha")
    if alpha is not None and not (isinstance(alpha, int | float) and abs(alpha) < LARGEST_NUMBER):
        more = "" if isinstance(alpha, int | float) else ", and must be a number"
        yield f"`lora_alpha` is {shown_value(alpha)}{more}"


def _wrong_mapping(mapping: object) -> Iterator[str]:
    """Yields a reason if `auto_mapping` names a class from outside transformers, PEFT and peftkit.

    PEFT writes `auto_mapping` if `task_type` is missing, and may import the class.
    """
    if mapping is None:
        return
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    if not str(library).startswith(("transformers.", "peft.", "peftkit.")):
        yield f"`auto_mapping` names a class of {str(library)[:60]!r}, which PEFT could import"


def _wrong_replication(ranges: Any) -> Iterator[str]:
    if not ranges:
        return
    try:
        layers = sum(max(0, int(end) - int(start)) for start, end in ranges)
    except (TypeError, ValueError, OverflowError):
        yield f"`layer_replication` is {str(ranges)[:60]}"
        return
    if layers > MOST_LAYERS:
        yield f"`layer_replication` makes {layers:,} layers; the maximum is {MOST_LAYERS}"


def _wrong_pattern(name: str, pattern: str) -> Iterator[str]:
    shown = pattern if len(pattern) <= 60 else f"{pattern[:57]}..."
    if len(pattern) > LONGEST_PATTERN:
        yield f"`{name}` is a pattern of {len(pattern):,} characters"
        return
    try:
        cost = _cost(_parser.parse(pattern), within=False)
    except (re.error, RecursionError, OverflowError) as error:
        yield f"`{name}` is `{shown}`, which is no regular expression: {error}"
        return
    if math.isinf(cost):
        yield f"`{name}` is `{shown}`: repeats within repeats can take forever"
    elif cost > MOST_TRIES:
        yield f"`{name}` is `{shown}`: so many open repeats and choices can take forever"


def _cost(parsed: Any, within: bool) -> float:
    """Estimates in how many ways a parsed pattern can match one name.

    The estimate is infinite if a repeat contains a choice or another repeat of variable length,
    because such a pattern can split one text in many ways.
    """
    tries = 1.0
    for operation, argument in parsed:
        name = str(operation)
        if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            least, most, inner = argument
            if within and most != least:
                return math.inf
            ways = 1 if most == least else OPEN if most > 8 else 4
            tries *= ways * _cost(inner, within or most > 1)
        elif name == "BRANCH":
            if within:
                return math.inf
            sides = argument[1]
            begins = [str(s[0]) for s in sides if len(s) and str(s[0][0]) == "LITERAL"]
            alike = max(map(begins.count, begins), default=0) + len(sides) - len(begins)
            tries *= alike * max(_cost(side, within) for side in sides)
        elif name == "GROUPREF" and within:
            return math.inf
        else:
            tries *= math.prod(_cost(part, within) for part in _parts(name, argument))
    return tries


def _parts(name: str, argument: Any) -> list[Any]:
    """The patterns nested in one operation of a parsed pattern."""
    if name == "SUBPATTERN":
        return [argument[3]]
    if name in ("ASSERT", "ASSERT_NOT"):
        return [argument[1]]
    if name == "ATOMIC_GROUP":
        return [argument]
    if name == "GROUPREF_EXISTS":
        return [side for side in argument[1:] if side]
    return []


def wrong_template(template: str) -> Iterator[str]:
    """Reasons why a chat template should not be rendered.

    Every Jinja loop ends, but may take very long. Finds only simple ways to write long loops.
    """
    if len(template) > LONGEST_TEMPLATE:
        yield f"it has {len(template):,} characters"
        return
    template = re.sub(r"\{#.*?#\}", "", template, flags=re.DOTALL)
    code = " ".join(re.findall(r"\{[%{](.*?)[%}]\}", template, re.DOTALL))
    plain = re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", "''", code)
    if numbers := [n for n in re.findall(r"\b\d[\d_]*\b", plain) if _large(n)]:
        yield f"it has the number {numbers[0][:20]}; the maximum is {LARGEST_NUMBER:,}"
    for name, sign in MAKES_MUCH.items():
        if re.search(sign, plain):
            yield f"it has {name}"
    depth, ranges = 0, 0
    open_loops: list[bool] = []
    for word, rest in re.findall(r"\{%[-+]?\s*(for|endfor)\b(.*?)%\}", template, re.DOTALL):
        if word == "for":
            open_loops.append("range" in rest)
        elif open_loops:
            open_loops.pop()
        depth, ranges = max(depth, len(open_loops)), max(ranges, sum(open_loops))
    if depth > DEEPEST_LOOP:
        yield f"it has nested loops, {depth} deep"
    if ranges > 1:
        yield "it has nested loops over ranges"


def _large(number: str) -> bool:
    digits = number.replace("_", "")
    return len(digits) > len(str(LARGEST_NUMBER)) or int(digits) > LARGEST_NUMBER
