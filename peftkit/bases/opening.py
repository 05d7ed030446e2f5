"""Opens a base's files, configuration and tokenizer; loads no weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from peftkit.bases.base import Base
from peftkit.bases.chat_templates import chat_template
from peftkit.bases.files import find_files
from peftkit.bases.opened import OpenedBase
from peftkit.bases.packages import missing_package
from peftkit.bases.padding import choose_padding
from peftkit.bases.token_ids import embedding_rows
from peftkit.errors import BaseModelError, first_line, quoted

NEEDED = {
    "gptq": "package gptqmodel and a GPU",
    "awq": "package gptqmodel and a GPU",
    "fp8": "a GPU that computes in fp8",
    "mxfp4": "package kernels and a GPU",
}
"""Quantization method other than bitsandbytes -> the package or GPU that it needs."""
LEAST_TEXT = 4
"""Minimum number of tokens that a text can have beside the virtual tokens."""
POSITIONS_AFTER_PADDING = (
    "camembert", "data2vec-text", "ibert", "longformer", "luke", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
"""Model types that number positions from `pad_token_id + 1`, and so read fewer tokens than they
have positions."""
PADDED_ON_THE_LEFT = ("xlnet",)
"""Model types whose classifiers read the last position, even if it is padding."""


def open_base(base: Base, virtual_tokens: int = 0, one_output: bool = False) -> OpenedBase:
    """Finds the files of a base and reads its configuration and tokenizer.

    Args:
        virtual_tokens: number of the method's virtual tokens, which take positions from the text.
        one_output: whether each text has one output, as with a text classifier.

    Raises:
        BaseModelError: the base does not exist, or transformers cannot load it, or peftkit cannot
            train on it.
        MissingPackageError: the package of a `packaged:` base, or a package that reads the base's
            files, is not installed.
    """
    opened = find_files(base)
    config, tokenizer = _config_and_tokenizer(base, opened.folder)
    if config.model_type in PADDED_ON_THE_LEFT:
        raise BaseModelError(
            f"`{base.name_or_path}` is a {config.model_type} model, which needs padding on the "
            "left, and peftkit pads on the right",
            "choose a base of another architecture",
        )
    tokenizer.name_or_path = base.name_or_path  # for messages; for GGUF it is the cache folder
    if base.chat_template:
        tokenizer.chat_template = chat_template(base.chat_template)
    choose_padding(tokenizer, config, one_output)
    readable = _readable_tokens(tokenizer, config)
    tokenizer.model_max_length = readable - virtual_tokens
    if tokenizer.model_max_length < LEAST_TEXT:
        raise BaseModelError(
            f"`{base.name_or_path}` reads {readable} tokens, "
            f"and {virtual_tokens} virtual tokens leave no room for a text",
            "lower `method.num_virtual_tokens`",
        )
    return replace(
        opened,
        spec=_as_quantized(base, config),
        config=config,
        tokenizer=tokenizer,
        added_ids=_add_tokens(tokenizer, base.added_tokens, embedding_rows(config)),
    )


def _config_and_tokenizer(base: Base, folder: Path) -> tuple[Any, Any]:
    """The transformers configuration and tokenizer of a base, from its folder.

    Raises:
        BaseModelError: transformers cannot read them.
        MissingPackageError: a package that reads them is not installed.
    """
    from transformers import AutoConfig, AutoTokenizer

    options = {"trust_remote_code": base.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(folder, **options)
        return config, AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        if missing := missing_package(error, folder):
            raise missing from error
        raise BaseModelError(
            f"`{base.name_or_path}` cannot be opened: {first_line(error)}",
            "it needs a config.json and tokenizer files that this version of transformers knows",
        ) from error


def _readable_tokens(tokenizer: Any, config: Any) -> int:
    """Maximum number of tokens that a model reads, by its tokenizer and by its positions."""
    positions = getattr(config, "max_position_embeddings", None) or 0
    positions = positions if positions > 0 else tokenizer.model_max_length  # XLNet says -1
    if config.model_type in POSITIONS_AFTER_PADDING:
        positions -= (config.pad_token_id or 0) + 1
    readable: int = min(tokenizer.model_max_length, positions)
    return readable


def _as_quantized(base: Base, config: Any) -> Base:
    """Returns the base; if its files are quantized, a copy with the files' quantization.

    Raises:
        BaseModelError: the recipe asks for a quantization that the files do not have, or peftkit
            cannot train on a base with the quantization of the files.
    """
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return base
    settings = settings if isinstance(settings, dict) else settings.to_dict()
    method = str(getattr(settings.get("quant_method"), "value", settings.get("quant_method")))
    if method != "bitsandbytes":
        needs = NEEDED.get(method, "software that peftkit does not use")
        raise BaseModelError(
            f"the weights of `{base.name_or_path}` are quantized with {method.upper()}, which "
            f"needs {needs}",
            'name the original checkpoint instead, with `base.quantization = "nf4"` or "int8"',
        )
    kind = "int8" if settings.get("load_in_8bit") else settings.get("bnb_4bit_quant_type", "fp4")
    if base.quantization not in ("none", kind):
        raise BaseModelError(
            f"the weights of `{base.name_or_path}` are quantized to {kind} already, and the recipe "
            f"asks for {base.quantization}",
            f"leave `base.quantization` out, or name the original checkpoint to get "
            f"{base.quantization}",
        )
    double = kind != "int8" and bool(settings.get("bnb_4bit_use_double_quant"))
    return base.with_(quantization=kind, double_quant=double)


def _add_tokens(tokenizer: Any, tokens: tuple[str, ...], rows: int | None) -> tuple[int, ...]:
    """Adds tokens to a tokenizer; returns their ids. A token that is already in the tokenizer is
    accepted if the embedding has no row for it.

    Args:
        rows: number of rows in the embedding; None if unknown.

    Raises:
        BaseModelError: the base knows one of the tokens, or their ids are not consecutive.
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
            f"`base.added_tokens`: the ids of {quoted(tokens)} are not consecutive",
            f"name all in this order: {quoted(between)}",
        )
    return ids
