"""Makes the tokenizer metadata of a GGUF model: copies it from a GGUF file of the base, or converts
a byte-level BPE tokenizer of transformers.

A pre-tokenizer cuts texts into words. A GGUF file holds only its name in llama.cpp, such as
`llama-bpe`, so only the pre-tokenizers in `CUTS` can be written.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.deploy.exporting.gguf.reading import open_gguf
from peftkit.deploy.exporting.gguf.writing import Copied, PlainValue, Value
from peftkit.errors import AdapterError, first_line, quoted
from peftkit.parts.json_object import JsonObject

PREFIX = "tokenizer."
TOKENS = "tokenizer.ggml.tokens"
TEMPLATE = "tokenizer.chat_template"
ADDS_BOS = "tokenizer.ggml.add_bos_token"
STOPS = ("eos", "eot", "eom")
"""GGUF's names of the tokens at which llama.cpp ends an answer."""
SPECIAL_IDS = {
    "bos": "bos",
    "unk": "unknown",
    "pad": "padding",
    "sep": "seperator",
}  # as in GGUF
QUESTION = "What's in parcel 42? 你好，Grüße!"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
"""GGUF's numbers for the kinds of tokens."""

BYTES: dict[str, object] = {"type": "ByteLevel", "add_prefix_space": False}
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Cut:
    """The parts of tokenizer.json that are equivalent to one pre-tokenizer of llama.cpp."""

    steps: tuple[Mapping[str, object], ...]
    """Settings that each pre-tokenizer in tokenizer.json must have, in order."""
    normalizer: str = ""
    """Type of a normalizer that is accepted in tokenizer.json, although llama.cpp does not apply
    it; empty if no normalizer is accepted."""
    takes_whole: bool = False
    """Whether a word that is in the vocabulary becomes one token without any merges."""


CUTS = {
    "gpt-2": Cut(({**BYTES, "use_regex": True},)),
    "smollm": Cut((
        {"type": "Digits", "individual_digits": True}, {**BYTES, "use_regex": True},
    )),
    "llama-bpe": Cut(
        ({"type": "Split", "pattern": {"Regex": LLAMA3}}, {**BYTES, "use_regex": False}),
        takes_whole=True,
    ),
    "qwen2": Cut(
        (
            {"type": "Split", "pattern": {"Regex": LLAMA3.replace("{1,3}", "")}},
            {**BYTES, "use_regex": False},
        ),
        normalizer="NFC",
    ),
}  # fmt: skip
"""Pre-tokenizer's name in llama.cpp (`tokenizer.ggml.pre`) -> its equivalent in tokenizer.json."""


def copied_fields(file: Path) -> Mapping[str, Copied]:
    """Reads the tokenizer's metadata from a GGUF file.

    Raises:
        AdapterError: the file is not a GGUF file, or has no tokenizer.
    """
    try:
        status = file.stat()
    except OSError as error:
        raise AdapterError(f"`{file}` cannot be read: {error.strerror}") from error
    return _copied_fields(file, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1)  # reading 50,000 tokens takes 3 s, and is wanted several times
def _copied_fields(file: Path, _size: int, _modified: int) -> Mapping[str, Copied]:
    """Reads the metadata for `copied_fields`; caches them until the file's size or time changes."""
    fields = {
        name: Copied(
            field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None
        )
        for name, field in open_gguf(file).fields.items()
        if name.startswith(PREFIX) and not (len(field.types) > 1 and not len(field.data))
    }
    if TOKENS not in fields:
        raise AdapterError(f"`{file}` holds no tokenizer", "give the GGUF file of the base")
    return fields


def written_fields(tokenizer: Any, vocabulary: int) -> dict[str, Value]:
    """GGUF's metadata for a transformers tokenizer.

    Args:
        vocabulary: number of rows in the model's embedding; a row without a token is written as
            `[PAD<id>]`.

    Raises:
        AdapterError: the tokenizer is not a byte-level BPE with a pre-tokenizer in `CUTS`.
    """
    if not tokenizer.is_fast:
        raise _unwritable("it is a slow one, without a tokenizer.json")
    steps = JsonObject(json.loads(tokenizer.backend_tokenizer.to_str()), "tokenizer.json")
    cut = _cut_of(steps)
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    strange = [t.content for t in added.values() if t.lstrip or t.rstrip or t.single_word]
    if strange:
        raise _unwritable(f"it strips white space around {quoted(strange, 3)}")
    kinds = {i: CONTROL if token.special else USER_DEFINED for i, token in added.items()}
    fields: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": cut,
        TOKENS: [by_id.get(number, f"[PAD{number}]") for number in range(vocabulary)],
        "tokenizer.ggml.token_type": [
            kinds.get(number, NORMAL if number in by_id else UNUSED) for number in range(vocabulary)
        ],
        "tokenizer.ggml.merges": [
            " ".join(pair) if isinstance(pair, list) else str(pair)
            for pair in steps.table("model").items_of("merges")
        ],
        ADDS_BOS: _adds(tokenizer, tokenizer.bos_token_id, 0),
        "tokenizer.ggml.add_eos_token": _adds(tokenizer, tokenizer.eos_token_id, -1),
        "tokenizer.ggml.add_space_prefix": False,
    }
    for name, key in SPECIAL_IDS.items():
        if (number := getattr(tokenizer, f"{name}_token_id")) is not None:
            fields[f"tokenizer.ggml.{key}_token_id"] = number
    return fields


def _cut_of(steps: JsonObject) -> str:
    """llama.cpp's name of the pre-tokenizer in a tokenizer.json."""
    model = steps.table("model")
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise _unwritable(f"it is {model['type']}, not byte-level BPE")
    unread = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    if unsupported := [name for name in unread if model.get(name)]:
        raise _unwritable(f"it has {quoted(unsupported)}")
    pre_tokenizer = steps.table("pre_tokenizer")
    several = pre_tokenizer.get("type") == "Sequence"
    parts = pre_tokenizer.items_of("pretokenizers") if several else [pre_tokenizer.content]
    normalizer = steps.table("normalizer").text("type")
    whole = bool(model.get("ignore_merges"))
    for name, cut in CUTS.items():
        same = len(cut.steps) == len(parts) and all(map(_has_fields, parts, cut.steps))
        if same and normalizer in ("", cut.normalizer) and whole == cut.takes_whole:
            return name
    raise _unwritable("its way of cutting texts into words has no known name in llama.cpp")


def _has_fields(step: object, wanted: Mapping[str, object]) -> bool:
    return isinstance(step, Mapping) and all(step.get(n) == value for n, value in wanted.items())


def _unwritable(why: str) -> AdapterError:
    return AdapterError(
        f"the base's tokenizer cannot be written into a GGUF file: {why}",
        "copy the tokenizer of a GGUF file of the base: `--tokenizer-from base.gguf`",
    )


def _adds(tokenizer: Any, token: int | None, place: int) -> bool:
    """Whether a tokenizer adds a token at the beginning (`place` 0) or end (-1) of every text."""
    ids = tokenizer("a")["input_ids"]
    return token is not None and len(ids) > 1 and ids[place] == token


def adds_bos(tokenizer: Any, source: str | Path | None) -> bool:
    """Whether llama.cpp puts the beginning-of-text token before a prompt by itself.

    Args:
        source: the GGUF file whose tokenizer is copied; None if the tokenizer is converted.
    """
    if source:
        fields = copied_fields(Path(source).expanduser())
        if (flag := fields.get(ADDS_BOS)) is not None:
            return bool(flag.value)
        return bool(fields["tokenizer.ggml.model"].value == "llama")  # llama.cpp's default
    return _adds(tokenizer, tokenizer.bos_token_id, 0)


def writes_bos(tokenizer: Any) -> bool:
    """Whether the chat template begins a prompt with the beginning-of-text token."""
    return bool(tokenizer.bos_token) and prompt_of(tokenizer).startswith(tokenizer.bos_token)


def prompt_of(tokenizer: Any) -> str:
    """A question rendered by the chat template.

    Raises:
        AdapterError: the template refuses a question.
    """
    messages = [{"role": "user", "content": QUESTION}]
    try:
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # a template is a program and may raise anything
        raise AdapterError(f"the chat template refuses a question: {first_line(error)}") from error
    return text


def with_training(
    fields: Mapping[str, Value], tokenizer: Any, stops: Iterable[int], plain: bool
) -> dict[str, Value]:
    """Adds the training's template, and the tokens that end an answer, to a tokenizer's metadata.

    Args:
        stops: ids of tokens that end an answer; the end-of-text token is added if missing.
        plain: whether the model continues a text and uses no template.

    Raises:
        AdapterError: a GGUF file has too few fields for the stop tokens.
    """
    ends = list(dict.fromkeys(stops))
    if tokenizer.eos_token_id in ends:  # first
        ends = [tokenizer.eos_token_id, *(e for e in ends if e != tokenizer.eos_token_id)]
    elif tokenizer.eos_token_id is not None:
        ends = [tokenizer.eos_token_id, *ends]
    if len(ends) > len(STOPS):
        raise AdapterError(
            f"{len(ends)} tokens end an answer, but a GGUF file has fields for {len(STOPS)}"
        )
    keys = {f"tokenizer.ggml.{name}_token_id" for name in STOPS}
    result = {name: v for name, v in fields.items() if name not in keys and name != TEMPLATE}
    for name, end in zip(STOPS, ends, strict=False):
        result[f"tokenizer.ggml.{name}_token_id"] = end
    if tokenizer.chat_template:
        result[TEMPLATE] = tokenizer.chat_template
        if not plain and not writes_bos(tokenizer):  # training had no such token
            result[ADDS_BOS] = False
    return result


def check_tokenizer_fields(
    fields: Mapping[str, PlainValue], tokenizer: Any, stops: Iterable[int], vocabulary: int
) -> None:
    """Compares the tokenizer metadata of a GGUF file with a transformers tokenizer.

    Raises:
        AdapterError: tokens, stop tokens or the chat template differ.
    """
    tokens, wrong = fields[TOKENS], []
    if isinstance(tokens, str) or not isinstance(tokens, Sequence):
        raise AdapterError(f"`{TOKENS}` of the GGUF file is not a list", "download it again")
    if len(tokens) != vocabulary:
        wrong.append(f"it has {len(tokens)} tokens, but the model has {vocabulary}")
    known = tokenizer.get_vocab()
    other = [t for t, i in known.items() if i >= len(tokens) or tokens[i] != t]
    if other:
        wrong.append(f"{len(other)} tokens have other ids, such as {other[0]!r}")
    for name in ("bos", "eos"):
        expected = getattr(tokenizer, f"{name}_token_id")
        token = fields.get(f"tokenizer.ggml.{name}_token_id")
        if expected is not None and token != expected:
            wrong.append(f"its {name} is {token}, not {expected}")
    ends = {fields.get(f"tokenizer.ggml.{name}_token_id") for name in STOPS}
    if missing := set(stops) - ends:
        wrong.append(f"answers would not end at {quoted(map(str, sorted(missing)))}")
    if tokenizer.chat_template and fields.get(TEMPLATE) != tokenizer.chat_template:
        wrong.append("its chat template is not the training's")
    if wrong:
        raise AdapterError(
            f"the tokenizer in the GGUF file is not the base's: {'; '.join(wrong)}",
            "give a GGUF file of the same base: `--tokenizer-from base.gguf`",
        )
