"""Opens a base: its files, configuration and tokenizer, but no weights.

Four forms lead to one local folder: a Hub id (small files are downloaded now, weights when they
are loaded), a local folder, a GGUF file (dequantized once into a cache), `packaged:NAME`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from peftkit.bases.base import Base
from peftkit.bases.chat_templates import chat_template
from peftkit.bases.gguf import dequantized
from peftkit.bases.opened import OpenedBase
from peftkit.bases.packages import named_by_library
from peftkit.bases.padding import choose_padding
from peftkit.bases.stand_ins import stand_in
from peftkit.bases.vocabulary import embedding_rows
from peftkit.data.packaged import MODELS, PREFIX, find_packaged
from peftkit.errors import (
    BaseModelError,
    UnreachableError,
    first_line,
    not_found,
    quoted,
)

SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.py"]
WEIGHT_FILES = ["model*.safetensors", "pytorch_model*.bin"]
"""In order of preference; other weight formats in a repository are not downloaded."""
NEEDED = {
    "gptq": "package gptqmodel and a GPU",
    "awq": "package gptqmodel and a GPU",
    "fp8": "a GPU that computes in fp8",
    "mxfp4": "package kernels and a GPU",
}
"""What transformers needs for weights that are quantized by others than bitsandbytes."""
LEAST_TEXT = 4
"""Tokens that must fit beside virtual tokens."""

POSITIONS_AFTER_PADDING = (
    "camembert", "data2vec-text", "ibert", "longformer", "luke", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
"""Families whose first position is `pad_token_id + 1`, so that they read fewer tokens than they
have positions."""


PADDED_ON_THE_LEFT = ("xlnet",)
"""Families whose classifiers take the last position for the text's, whatever it is."""


def open_base(base: Base, virtual_tokens: int = 0, one_output: bool = False) -> OpenedBase:
    """Finds the files of a base and reads its configuration and tokenizer.

    Args:
        virtual_tokens: positions that the method takes from the text.
        one_output: whether each text has one output, as of a classifier.

    Raises:
        BaseModelError: nothing is there, or it is not a model that transformers can load and
            peftkit can train on.
        MissingPackageError: a `packaged:` base whose package is not installed, or what reads the
            base's files.
    """
    from transformers import AutoConfig, AutoTokenizer

    found = _find(base)
    options = {"trust_remote_code": base.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(found.folder, **options)
        tokenizer = AutoTokenizer.from_pretrained(found.folder, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        if missing := named_by_library(error, found.folder):
            raise missing from error
        raise BaseModelError(
            f"`{base.name_or_path}` cannot be opened: {first_line(error)}",
            "it needs a config.json and tokenizer files that this version of transformers knows",
        ) from error
    if config.model_type in PADDED_ON_THE_LEFT:
        raise BaseModelError(
            f"`{base.name_or_path}` is a {config.model_type} model, which reads texts that are "
            "padded on the left, and peftkit pads on the right",
            "choose a base of another architecture",
        )
    tokenizer.name_or_path = base.name_or_path  # for messages; a GGUF's would be its cache
    if base.chat_template:
        tokenizer.chat_template = chat_template(base.chat_template)
    choose_padding(tokenizer, config, one_output)
    positions = getattr(config, "max_position_embeddings", None) or 0
    positions = positions if positions > 0 else tokenizer.model_max_length  # XLNet says -1
    if config.model_type in POSITIONS_AFTER_PADDING:
        positions -= (config.pad_token_id or 0) + 1
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions) - virtual_tokens
    if tokenizer.model_max_length < LEAST_TEXT:
        raise BaseModelError(
            f"`{base.name_or_path}` reads {tokenizer.model_max_length + virtual_tokens} tokens, "
            f"and {virtual_tokens} virtual tokens leave no room for a text",
            "lower `method.num_virtual_tokens`",
        )
    return replace(
        found,
        spec=_as_quantized(base, config),
        config=config,
        tokenizer=tokenizer,
        added_ids=_add_tokens(tokenizer, base.added_tokens, embedding_rows(config)),
    )


def _as_quantized(base: Base, config: Any) -> Base:
    """The base with the quantization that its files have, if they have one.

    Raises:
        BaseModelError: it is another than the recipe asks for, or one that cannot be trained on.
    """
    found = getattr(config, "quantization_config", None)
    if found is None:
        return base
    found = found if isinstance(found, dict) else found.to_dict()
    method = str(getattr(found.get("quant_method"), "value", found.get("quant_method")))
    if method != "bitsandbytes":
        needs = NEEDED.get(method, "software that peftkit does not use")
        raise BaseModelError(
            f"the weights of `{base.name_or_path}` are quantized with {method.upper()}, which "
            f"needs {needs}",
            'name the original checkpoint instead, with `base.quantization = "nf4"` or "int8"',
        )
    kind = "int8" if found.get("load_in_8bit") else found.get("bnb_4bit_quant_type", "fp4")
    if base.quantization not in ("none", kind):
        raise BaseModelError(
            f"the weights of `{base.name_or_path}` are quantized to {kind} already, and the recipe "
            f"asks for {base.quantization}",
            f"leave `base.quantization` out, or name the original checkpoint to get "
            f"{base.quantization}",
        )
    double = kind != "int8" and bool(found.get("bnb_4bit_use_double_quant"))
    return base.with_(quantization=kind, double_quant=double)


def _add_tokens(tokenizer: Any, tokens: tuple[str, ...], rows: int | None) -> tuple[int, ...]:
    """Adds tokens to the vocabulary; gives their ids. Those that the vocabulary has and the
    embedding has not may be among them.

    Args:
        rows: of the embedding.

    Raises:
        BaseModelError: the base has one of them, or their ids do not follow one another.
    """
    from transformers import AddedToken

    vocabulary = tokenizer.get_vocab()
    if known := [t for t in tokens if rows is None or vocabulary.get(t, rows) < rows]:
        raise BaseModelError(
            f"`base.added_tokens`: {quoted(known)} is in the vocabulary already", "take it out"
        )
    new = [token for token in tokens if token not in vocabulary]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in new])
    ids = tuple(tokenizer.convert_tokens_to_ids(list(tokens)))
    if ids and ids != tuple(range(ids[0], ids[0] + len(ids))):
        between = tokenizer.convert_ids_to_tokens(list(range(min(ids), max(ids) + 1)))
        raise BaseModelError(
            f"`base.added_tokens`: {quoted(tokens)} do not follow one another in the vocabulary",
            f"name all in this order: {quoted(between)}",
        )
    return ids


def download_weights(base: OpenedBase) -> None:
    """Completes the folder of a Hub base with its weight files; others have them already.

    Raises:
        BaseModelError: there are none.
    """
    if base.source is not None:
        return None
    if base.folder.parent.name != "snapshots":
        return check_has_weights(base.folder)
    for pattern in WEIGHT_FILES:
        _snapshot(base.spec, [pattern, pattern + ".index.json"])
        if any(base.folder.glob(pattern)):
            return None
    raise BaseModelError(
        f"`{base.spec.name_or_path}` has none of the weight files {', '.join(WEIGHT_FILES)}",
        "choose a repository with safetensors weights",
    )


def has_weights(base: OpenedBase) -> bool:
    """Whether the weights are on this machine; those of a Hub base come when they are needed."""
    return any(next(base.folder.glob(pattern), None) for pattern in WEIGHT_FILES)


def find_local(base: Base) -> Path | None:
    """The folder or file of a base that is on this machine; None for a Hub id.

    Raises:
        BaseModelError: nothing is there, or it is no model.
        MissingPackageError: a `packaged:` base whose package is not installed.
    """
    name = base.name_or_path
    if name.startswith(PREFIX):
        return find_packaged(name, MODELS)[1]
    path = Path(name).expanduser()
    if not path.exists():
        if name.startswith(("/", "./", "../", "~")) or name.endswith(".gguf"):
            raise BaseModelError(f"no file or folder `{name}`", not_found(path), missing=path)
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
            raise BaseModelError(
                f"`{name}` is neither a Hub id (`org/name`), a folder, a .gguf file nor "
                f"`{PREFIX}NAME`"
            )
        return None
    if path.is_file() and path.suffix != ".gguf":
        raise BaseModelError(f"`{name}` is a file", "give the model's folder, or a .gguf file")
    if path.is_dir() and not (path / "config.json").is_file():
        raise BaseModelError(
            f"the folder `{path}` has no config.json",
            "give the folder that transformers' `save_pretrained` wrote",
        )
    if path.is_dir():
        _check_files(path)
    return path


def _check_files(folder: Path) -> None:
    """Raises BaseModelError if something else stands for one of a folder's files."""
    for pattern in ("*.json", *WEIGHT_FILES):
        for file in sorted(folder.glob(pattern)):
            if instead := stand_in(file):
                raise BaseModelError(f"`{file}` {instead.what}", instead.advice)


def check_has_weights(folder: Path) -> None:
    """Raises BaseModelError if a folder with a base has no weights in it."""
    if not any(next(folder.glob(pattern), None) for pattern in WEIGHT_FILES):
        raise BaseModelError(
            f"the folder `{folder}` has none of the weight files {quoted(WEIGHT_FILES)}",
            "give the folder that transformers' `save_pretrained` wrote",
        )


def _find(base: Base) -> OpenedBase:
    path = find_local(base)
    if path is None:
        folder = fetch(base)
        return OpenedBase(base, folder, None, None, hub_id=base.name_or_path, revision=folder.name)
    hub_id = ""
    if base.name_or_path.startswith(PREFIX):
        hub_id = MODELS[base.name_or_path.removeprefix(PREFIX)].hub_id
    if path.is_file():
        return OpenedBase(base, dequantized(path), None, None, hub_id=hub_id, source=path)
    return OpenedBase(base, path, None, None, hub_id=hub_id)


def fetch(base: Base) -> Path:
    """The folder with a Hub base's small files: configuration, tokenizer.

    Raises:
        UnreachableError: the Hub does not give them.
    """
    return _snapshot(base, SMALL_FILES)


def _snapshot(base: Base, patterns: list[str]) -> Path:
    """The base's folder in the Hub cache, with at least the files that match the patterns."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                base.name_or_path, revision=base.revision or None, allow_patterns=patterns
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UnreachableError(
            f"`{base.name_or_path}` is no local folder, and the Hub does not give it: "
            f"{first_line(error)}",
            "check the id and the network, log in with `hf auth login` if it is gated, "
            "or give a local folder",
        ) from error
