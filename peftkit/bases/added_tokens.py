"""Trains embeddings of tokens added to the vocabulary, with any method.

    E(id) = rows[id - first] for added tokens, the frozen embedding for all others
    logits[id] = rows[id - first] . h for added tokens, the frozen output layer for all others

An output layer that is tied to the embedding shares the embedding's rows; any other has separate
ones. The rows are not parameters of the method, and are saved in a separate file,
`added_tokens.safetensors`. A forward pass does not copy the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from peftkit.errors import AdapterError, MethodError

WEIGHTS = "added_tokens.safetensors"


class _AddedTokens(nn.Module):
    """A frozen embedding or output layer with trained rows for added tokens."""

    def __init__(self, base: nn.Module, ids: Sequence[int], rows: nn.Parameter) -> None:
        """Args:
        ids: ids of the added tokens, consecutive.
        rows: trained rows, (ids, width), float32.
        """
        super().__init__()
        self.frozen = base
        self.first, self.count = ids[0], len(ids)
        self.rows = rows

    def __getattr__(self, name: str) -> Any:
        """Reads attributes such as `weight` and `num_embeddings` from the frozen layer."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "frozen":
                raise
            return getattr(self.frozen, name)


class AddedEmbeddings(_AddedTokens):
    """A frozen input embedding with trained rows for added tokens."""

    def forward(self, input_ids: Tensor) -> Tensor:
        """Token ids (rows, width) -> embeddings (rows, width, d)."""
        out: Tensor = self.frozen(input_ids)
        index = input_ids - self.first
        added = (index >= 0) & (index < self.count)
        trained = F.embedding(index.clamp(0, self.count - 1), self.rows)
        trained = trained * getattr(self.frozen, "embed_scale", 1.0)  # Gemma's
        return torch.where(added[..., None], trained.to(out.dtype), out)


class AddedOutputs(_AddedTokens):
    """A frozen output layer with trained rows for added tokens."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Hidden states (..., d) -> logits (..., vocabulary)."""
        out: Tensor = self.frozen(hidden_states)
        bias = getattr(self.frozen, "bias", None)
        span = slice(self.first, self.first + self.count)
        trained = F.linear(hidden_states.to(self.rows.dtype), self.rows)
        trained = trained.to(out.dtype) + (0.0 if bias is None else bias[span])
        return torch.cat((out[..., : span.start], trained, out[..., span.stop :]), dim=-1)


def train_added_tokens(model: nn.Module, ids: Sequence[int]) -> None:
    """Adds trainable rows for added tokens to a model with any method injected.

    Does nothing if the method trains the whole embedding itself.
    """
    base: Any = model
    if ids and not base.get_input_embeddings().weight.requires_grad:
        _put_rows(base, ids)


def _put_rows(base: Any, ids: Sequence[int]) -> None:
    """Adds trained rows for the tokens `ids` to the base's input embedding and any output layer.

    Raises:
        MethodError: one of these layers is adapted by the method, or quantized.
    """
    embedding, output = base.get_input_embeddings(), base.get_output_embeddings()
    for layer in filter(None, (embedding, output)):
        plain = isinstance(layer, nn.Embedding | nn.Linear) and layer.weight.is_floating_point()
        if not plain:
            raise MethodError(
                "`base.added_tokens` trains rows of the embedding and the output layer, but one of "
                "them is adapted by the method or quantized",
                "leave that layer out of `method.target_modules`",
            )
    weight = embedding.weight
    rows = _rows(embedding, ids)
    for module in list(base.modules()):
        if isinstance(module, nn.Embedding) and module.weight is weight:
            _replace(base, module, AddedEmbeddings(module, ids, rows))
    if output is not None:
        output_rows = rows if output.weight is weight else _rows(output, ids)
        _replace(base, output, AddedOutputs(output, ids, output_rows))


def save_added_tokens(model: nn.Module, folder: Path) -> None:
    """Saves the rows of added tokens as tensors `input` and `output`; no file if there are none."""
    tensors = {name: rows.detach().cpu().clone() for name, rows in added_rows(model).items()}
    if tensors:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load_added_tokens(model: nn.Module, folder: Path, ids: Sequence[int]) -> None:
    """Adds saved rows of added tokens, frozen, to a model with a loaded adapter.

    Raises:
        AdapterError: the rows in the file do not fit these tokens.
    """
    file = folder / WEIGHTS
    if not ids or not file.is_file():
        return  # the method trained the embedding, and has loaded it
    _put_rows(model, ids)
    rows = added_rows(model)
    _fill(rows, file)
    for parameter in rows.values():
        parameter.requires_grad_(False)


def _fill(rows: dict[str, nn.Parameter], file: Path) -> None:
    """Copies the rows in a file to the parameters in `rows`."""
    try:
        saved = load_file(file)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"`{file}` cannot be read: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in rows.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    if shapes != expected:
        raise AdapterError(f"`{file}` does not fit the model: it holds {shapes}, not {expected}")
    for name, tensor in saved.items():
        rows[name].data.copy_(tensor)


def restore_added_tokens(model: nn.Module, folder: Path) -> None:
    """Sets a model's trainable rows of added tokens to the values saved in a folder.

    Raises:
        AdapterError: the folder has no rows, or rows that do not fit these tokens.
    """
    rows = added_rows(model)
    if not rows or next(iter(rows.values())).is_meta:
        return
    _fill(rows, folder / WEIGHTS)


def fold_added_tokens(model: nn.Module) -> None:
    """Writes the trained rows into the layers they belong to, and removes the wrappers."""
    layers = [module for module in model.modules() if isinstance(module, _AddedTokens)]
    for layer in layers:
        span = slice(layer.first, layer.first + layer.count)
        layer.weight.data[span] = layer.rows.data.to(layer.weight.dtype)
        _replace(model, layer, layer.frozen)


def added_rows(model: nn.Module) -> dict[str, nn.Parameter]:
    """Rows of added tokens: `input`, and `output` if the output layer has separate rows."""
    rows: dict[str, nn.Parameter] = {}
    for module in model.modules():
        if isinstance(module, AddedEmbeddings):
            rows["input"] = module.rows
    for module in model.modules():
        if isinstance(module, AddedOutputs) and module.rows is not rows["input"]:
            rows["output"] = module.rows
    return rows


def _rows(layer: nn.Module, ids: Sequence[int]) -> nn.Parameter:
    weight: Any = layer.weight
    return nn.Parameter(weight.detach()[ids[0] : ids[0] + len(ids)].float().clone())


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replaces a module wherever the model refers to it."""
    for parent in list(model.modules()):
        if parent is not new:
            for name, child in list(parent._modules.items()):
                if child is old:
                    setattr(parent, name, new)
