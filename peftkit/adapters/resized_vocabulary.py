"""Fits a base's vocabulary to an adapter trained with added tokens or resized embeddings.

PEFT saves whole embeddings in such an adapter, and users save the tokenizer in its folder. peftkit
resizes the base's embeddings to the adapter's size, and encodes texts with this tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peftkit.adapters.inspection.digests import WEIGHTS
from peftkit.adapters.inspection.hazards import wrong_template
from peftkit.adapters.inspection.headers import Stored, read_header
from peftkit.adapters.inspection.inspecting import LARGEST_JSON
from peftkit.bases.loading import empty_model
from peftkit.bases.opened import OpenedBase
from peftkit.bases.padding import choose_padding
from peftkit.bases.resizing import resized
from peftkit.bases.stand_ins import stand_in
from peftkit.data.head import Head
from peftkit.errors import AdapterError, first_line, quoted
from peftkit.methods.peft.adapter_config import AdapterConfig
from peftkit.wording import plural

WHOLE = (
    "weight", "original_module.weight", "modules_to_save.weight", "base_layer.weight",
    "token_adapter.base_layer.weight",
)  # fmt: skip
"""Suffixes of the tensor names under which PEFT saves a whole embedding."""
ROWS_AT = {**dict.fromkeys(WHOLE, 0), "lora_B.weight": 0, "lora_embedding_A": 1}
"""Suffix of a tensor's name -> the dimension with one entry for each token."""
TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt",
    "vocab.json",
)  # fmt: skip
INDICES = ("trainable_token_indices", "token_indices")
"""Fields of adapter_config.json that list token ids if only these tokens' rows are trained."""


@dataclass(frozen=True)
class HeldRows:
    """The vocabulary rows that an adapter holds."""

    rows: int
    """Number of rows in the adapter's embeddings; 0 if it holds no embedding."""
    ids: frozenset[int]
    """Ids of the trained rows' tokens if only some rows are trained; empty otherwise."""
    input: bool
    """Whether the adapter holds the input embedding."""
    output: bool
    """Whether the adapter holds the output layer; True if the output layer is tied."""

    def without_rows_from(self, first: int, rows: int) -> list[str]:
        """Names of the layers for which the adapter lacks the new rows, `first` to `rows` - 1."""
        new = range(first, rows)
        complete = {
            "the input embedding": self.input or self.ids.issuperset(new),
            "the output layer": self.output,
        }
        return [layer for layer, holds in complete.items() if new and not holds]


def fit_vocabulary(folder: Path, config: AdapterConfig, base: OpenedBase, head: Head) -> OpenedBase:
    """Gives a base the adapter's tokenizer, and embeddings of the adapter's size.

    Args:
        folder: the folder of an adapter that PEFT saved.
        config: the content of its adapter_config.json.

    Raises:
        AdapterError: the adapter's embeddings fit neither the base nor a tokenizer in the folder.
    """
    names, here = _embeddings(base, head)
    held = _held_rows(folder, config, names)
    trains_rows = bool(held.rows or held.ids)
    tokenizer = _tokenizer_beside(folder, base, head, needed=trains_rows)
    if not trains_rows:
        if tokenizer is None or not _extends(tokenizer, base.tokenizer, here):
            return base
        return replace(base, tokenizer=tokenizer)
    read = base.tokenizer if tokenizer is None else tokenizer
    rows = held.rows or max(here, *(n + 1 for n in held.ids), _size(read))
    if rows == here:
        return replace(base, tokenizer=read) if _size(read) <= rows else base
    if tokenizer is None and rows != _size(read):
        raise AdapterError(
            f"the adapter is for a vocabulary of {rows:,} tokens, and `{base.name}` has {here:,}; "
            "the adapter's folder has no usable tokenizer",
            f"put the tokenizer used in training into `{folder}` (tokenizer.json and "
            "tokenizer_config.json), or give the base it was trained on with `--base`",
        )
    if (size := _size(read)) > rows:
        raise AdapterError(
            f"the tokenizer beside the adapter has {size:,} tokens, and the adapter's embeddings "
            f"have {rows:,} rows",
            "put the tokenizer used in training into the adapter's folder",
        )
    return resized(base, rows, read)


def vocabulary_note(folder: Path, config: AdapterConfig, base: OpenedBase, head: Head) -> str:
    """A note on what `fit_vocabulary` changed; empty if it changed nothing.

    Args:
        base: the base that `fit_vocabulary` returned.
    """
    own_tokenizer = uses_own_tokenizer(folder, base)
    if not base.rows_in_files:
        note = "texts are read with the tokenizer beside it"
        return note if own_tokenizer else _unused_tokenizer_note(folder, base, head)
    rows, stored = base.config.get_text_config().vocab_size, base.rows_in_files
    note = f"its embeddings are resized from {stored:,} to the adapter's {rows:,} tokens"
    if own_tokenizer:
        note += ", and texts are read with the tokenizer beside it"
    names, _ = _embeddings(base, head)
    if missing := _held_rows(folder, config, names).without_rows_from(stored, rows):
        note += (
            "; the adapter lacks the new rows of "
            f"{' and '.join(missing)}, so they are the mean of the others, as in transformers"
        )
    return note


def uses_own_tokenizer(folder: Path, base: OpenedBase) -> bool:
    """Whether texts are encoded with the adapter's tokenizer instead of the base's tokenizer."""
    return Path(base.tokenizer.name_or_path) == folder


def _unused_tokenizer_note(folder: Path, base: OpenedBase, head: Head) -> str:
    """A note that a larger tokenizer in the adapter's folder is unused; empty if there is none."""
    tokenizer = _tokenizer_beside(folder, base, head, needed=False)
    if tokenizer is None or (more := _size(tokenizer) - _size(base.tokenizer)) < 1:
        return ""
    return (
        f"the adapter's tokenizer has {plural(more, 'token')} without embeddings; the base's "
        "tokenizer is used"
    )


def _embeddings(base: OpenedBase, head: Head) -> tuple[dict[str, bool], int]:
    """Finds the input embedding and the output layer of a base's model.

    Returns:
        A dict, layer's name -> whether the layer uses the input embedding's weight; and the number
        of rows in the input embedding.
    """
    model: Any = empty_model(base, head).model
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    layers = [layer for layer in (embedding, output) if layer is not None]
    names = {
        name: module.weight is embedding.weight
        for name, module in model.named_modules(remove_duplicate=False)
        if any(getattr(module, "weight", None) is layer.weight for layer in layers)
    }
    return names, int(embedding.weight.shape[0])


def _held_rows(folder: Path, config: AdapterConfig, names: Mapping[str, bool]) -> HeldRows:
    """The vocabulary rows that an adapter holds; `names` is the result of `_embeddings`.

    Raises:
        AdapterError: the adapter's embeddings differ in size.
    """
    file = folder / WEIGHTS
    header = read_header(file) if file.is_file() else {}
    parts = {name: _parts(header, name) for name in names}
    sizes = {
        stored.shape[ROWS_AT[end]]
        for tensors in parts.values()
        for end, stored in tensors.items()
        if len(stored.shape) == 2
    }
    if len(sizes) > 1:
        raise AdapterError(
            "the adapter's embeddings have different numbers of rows: "
            f"{' and '.join(f'{size:,}' for size in sorted(sizes))}",
            "ask whoever published it",
        )
    whole = {tied for name, tied in names.items() if any(end in WHOLE for end in parts[name])}
    return HeldRows(
        rows=sizes.pop() if sizes else 0,
        ids=frozenset(_indices(config)),
        input=True in whole,
        output=False in whole or False not in names.values(),
    )


def _parts(header: Mapping[str, Stored], module: str) -> dict[str, Stored]:
    """Suffix in `ROWS_AT` -> tensor, for the tensors of one embedding."""
    parts = {}
    for prefix in ("base_model.model.", "base_model."):
        for end in ROWS_AT:
            if (stored := header.get(f"{prefix}{module}.{end}")) is not None:
                parts[end] = stored
    return parts


def _indices(config: AdapterConfig) -> Iterable[int]:
    for name in INDICES:
        value = config.get(name) or []
        for ids in value.values() if isinstance(value, dict) else [value]:
            yield from (n for n in ids if isinstance(n, int)) if isinstance(ids, list) else ()


def _tokenizer_beside(folder: Path, base: OpenedBase, head: Head, needed: bool) -> Any:
    """The tokenizer in an adapter's folder, with the base's length limit.

    Returns the base's tokenizer if the folder's tokenizer has the same tokens. Returns None if the
    folder has no tokenizer, if one of its files is too large, or if it cannot be read and is not
    `needed`.

    Raises:
        AdapterError: the tokenizer cannot be read although it is `needed`.
    """
    import transformers

    files = [file for name in TOKENIZERS if (file := folder / name).is_file()]
    if not files or any(file.stat().st_size > LARGEST_JSON for file in files):
        return None
    for file in files:
        if needed and (instead := stand_in(file)):
            message = f"the tokenizer beside the adapter: `{file.name}` {instead.what}"
            raise AdapterError(message, instead.advice)
    auto: Any = transformers.AutoTokenizer
    try:
        tokenizer = auto.from_pretrained(folder, config=base.config, trust_remote_code=False)
    except Exception as error:  # transformers raises many types on unchecked files
        if not needed:
            return None
        raise AdapterError(
            f"the tokenizer beside the adapter, {quoted(f.name for f in files)}, cannot be read: "
            f"{first_line(error)}",
            "download it again",
        ) from error
    if tokenizer.get_vocab() == base.tokenizer.get_vocab():
        return base.tokenizer
    tokenizer.name_or_path = str(folder)
    tokenizer.model_max_length = min(tokenizer.model_max_length, base.tokenizer.model_max_length)
    template = tokenizer.chat_template
    if not template or any(why for text in _templates(template) for why in wrong_template(text)):
        tokenizer.chat_template = base.tokenizer.chat_template
    if tokenizer.pad_token_id is None:
        choose_padding(tokenizer, base.config, one_output=head.output == "pooled")
    return tokenizer


def _templates(template: Any) -> list[str]:
    return [str(part) for part in template.values()] if isinstance(template, dict) else [template]


def _extends(tokenizer: Any, other: Any, rows: int) -> bool:
    """Whether a tokenizer has all tokens of `other` with the same ids, and more tokens.

    All ids must be below `rows`.
    """
    vocabulary, known = tokenizer.get_vocab(), other.get_vocab()
    same = all(vocabulary.get(token) == number for token, number in known.items())
    return same and len(vocabulary) > len(known) and _size(tokenizer) <= rows


def _size(tokenizer: Any) -> int:
    """Smallest number of embedding rows that covers all ids of a tokenizer."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)
