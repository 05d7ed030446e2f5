"""Resizes a base's embeddings to another number of tokens than the checkpoint has."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from peftkit.bases.opened import OpenedBase


def resized(base: OpenedBase, rows: int, tokenizer: Any) -> OpenedBase:
    """A copy of the base whose embeddings are resized to `rows` rows on loading.

    Args:
        rows: number of rows that the embeddings get.
        tokenizer: tokenizer of the resized base.
    """
    config = copy.deepcopy(base.config)
    text = config.get_text_config()
    stored, text.vocab_size = int(text.vocab_size), rows
    return replace(base, config=config, tokenizer=tokenizer, rows_in_files=stored)


def as_in_files(config: Any, base: OpenedBase) -> Any:
    """Sets a configuration's vocabulary size to the number of embedding rows in the base's files;
    removes a padding token that has no row there.
    """
    if base.rows_in_files:
        config.get_text_config().vocab_size = base.rows_in_files
        if config.pad_token_id is not None and config.pad_token_id >= base.rows_in_files:
            config.pad_token_id = None
    return config


def resize_vocabulary(model: Any, base: OpenedBase) -> None:
    """Resizes a model's embedding and output layer to its vocabulary.

    For a recipe's added tokens, new rows are drawn with the mean and spread of the old rows, from
    torch's global seed. For an adapter's tokens, new rows equal the old rows' mean.
    """
    here = model.get_input_embeddings().num_embeddings
    if base.rows_in_files:
        _resize_exactly(model, here, int(base.config.get_text_config().vocab_size))
        model.config.pad_token_id = base.tokenizer.pad_token_id
        return
    needed = max(base.added_ids, default=-1) + 1
    if needed > here:
        model.resize_token_embeddings(needed, mean_resizing=model.device.type != "meta")


def _resize_exactly(model: Any, here: int, rows: int) -> None:
    """Grows or cuts the embeddings; new rows are the mean of the old ones."""
    if rows == here:
        return
    model.resize_token_embeddings(rows, mean_resizing=False)
    if rows < here or model.device.type == "meta":
        return
    layers = filter(None, (model.get_input_embeddings(), model.get_output_embeddings()))
    for layer in layers:
        for tensor in (layer.weight, getattr(layer, "bias", None)):
            if tensor is not None and len(tensor) == rows:
                tensor.data[here:] = tensor.data[:here].mean(dim=0)
