"""Writes a merged model as a GGUF file for llama.cpp, Ollama and LM Studio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from peftkit.bases.loading import has_tied_output
from peftkit.bases.opened import OpenedBase
from peftkit.deploy.exporting.gguf.families import Layout, family_of
from peftkit.deploy.exporting.gguf.reading import check_fields, compare, read_gguf
from peftkit.deploy.exporting.gguf.tokenizer import (
    check_tokenizer_fields,
    copied_fields,
    prompt_of,
    with_training,
    written_fields,
)
from peftkit.deploy.exporting.gguf.writing import Value, values_of, write_gguf
from peftkit.errors import AdapterError

KNOWN = ("llama", "mistral", "qwen2", "qwen3")
"""Model types for which `model_fields` writes every hyperparameter."""
FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}
"""Number format of the matrices -> the value of `general.file_type`."""
ROPES = ("default", "linear", "llama3")
PROMPT, PROMPT_IDS = "peftkit.prompt", "peftkit.prompt_ids"
"""Metadata keys of a rendered prompt, and of the token ids that transformers makes of it. They
serve to test other programs' tokenizers; llama.cpp ignores unknown keys."""


def check_writable(base: OpenedBase) -> Layout:
    """Checks that a base can be written as a GGUF model; returns its layout.

    Raises:
        AdapterError: the base's architecture or a setting in its configuration is not supported.
    """
    config = base.config
    layout = Layout.of(config, family_of(config, KNOWN))
    rope = config.rope_parameters["rope_type"]
    if rope not in ROPES:
        raise AdapterError(
            f"the base scales its positions by `{rope}`, which is not supported here"
        )
    if config.hidden_act != "silu":
        raise AdapterError(
            f"the base's activation is `{config.hidden_act}`, but llama.cpp computes `silu`"
        )
    window = getattr(config, "sliding_window", None)
    if window is not None and window < config.max_position_embeddings:
        raise AdapterError(
            f"the base attends to the last {window:,} tokens only, and llama.cpp has no such "
            "window for this architecture",
            "use `--to gguf-lora` with the base's published GGUF file",
        )
    if base.added_ids:
        raise AdapterError(
            "tokens were added to the vocabulary, and no GGUF tokenizer can be written for them",
            "use `peftkit merge`, which writes the model and its tokenizer",
        )
    return layout


def tokenizer_fields(
    base: OpenedBase, stops: tuple[int, ...], source: str, plain: bool = False
) -> dict[str, Value]:
    """The metadata of the base's tokenizer, with the training's template and stop tokens.

    Args:
        source: GGUF file to copy the tokenizer from. If empty, the tokenizer is copied from the
            base's GGUF file, or converted from transformers if the base has no GGUF file.
        plain: whether the model continues a text and uses no template.

    Raises:
        AdapterError: the copied tokenizer differs from the base's tokenizer, or GGUF cannot hold
            the tokenizer.
    """
    vocabulary = base.config.vocab_size
    base_file = None if base.rows_in_files else base.source  # the file lacks added tokens
    file = Path(source).expanduser() if source else base_file
    if source and not Path(source).expanduser().is_file():
        raise AdapterError(f"`--tokenizer-from`: no file `{source}`")
    of_base = copied_fields(file) if file else written_fields(base.tokenizer, vocabulary)
    fields = with_training(of_base, base.tokenizer, stops, plain)
    check_tokenizer_fields(values_of(fields), base.tokenizer, stops, vocabulary)
    return fields if plain else {**fields, **_prompt(base.tokenizer)}


def _prompt(tokenizer: Any) -> dict[str, Value]:
    if not tokenizer.chat_template:
        return {}
    text = prompt_of(tokenizer)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return {PROMPT: text, PROMPT_IDS: ids}


def model_fields(config: Any, kind: str, name: str) -> dict[str, Value]:
    """The model's hyperparameters, by GGUF's keys.

    Args:
        name: the model's name, written into the file.
    """
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    rope = config.rope_parameters
    hyperparameters: dict[str, Value] = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": config.num_key_value_heads or heads,
        "attention.key_length": width,
        "attention.value_length": width,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": width,
        "rope.freq_base": float(rope["rope_theta"]),
    }
    if rope["rope_type"] == "linear":
        hyperparameters |= {
            "rope.scaling.type": "linear",
            "rope.scaling.factor": float(rope["factor"]),
        }
    return {
        "general.type": "model",
        "general.name": name,
        "general.file_type": FILE_TYPES[kind],
        "general.quantization_version": 2,
        **{
            f"{family_of(config).architecture}.{key}": value
            for key, value in hyperparameters.items()
        },
    }


def _tensors(model: nn.Module, layout: Layout) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Yields each tensor's GGUF name and values, with rows in transformers' order."""
    config: Any = model.config
    tied = has_tied_output(model)
    for key, tensor in model.state_dict().items():
        module, _, part = key.rpartition(".")
        name = layout.name(module)
        if not name:
            raise AdapterError(f"`{key}` has no name in a GGUF file")
        if name != "output" or not tied:
            yield f"{name}.{part}", tensor.float().numpy()
    if config.rope_parameters["rope_type"] == "llama3":
        yield "rope_freqs.weight", _frequency_factors(model)


def _frequency_factors(model: Any) -> npt.NDArray[np.float32]:
    """The numbers by which Llama 3.1 divides its rotary frequencies, (d/2,)."""
    used = model.model.rotary_emb.inv_freq.double().numpy()
    theta = model.config.rope_parameters["rope_theta"]
    plain = theta ** -(np.arange(len(used)) / len(used))
    factors: npt.NDArray[np.float32] = (plain / used).astype(np.float32)
    return factors


def write_model(
    file: Path, model: nn.Module, layout: Layout, fields: Mapping[str, Value], kind: str
) -> None:
    """Writes a GGUF model.

    Args:
        model: the merged model, in float32.
        fields: the metadata, from `model_fields` and `tokenizer_fields`.
        kind: number format of the matrices: `f32`, `f16` or `q8_0`. Vectors are float32.
    """
    tensors = {name: layout.ordered(name, values) for name, values in _tensors(model, layout)}
    write_gguf(file, layout.family.architecture, fields, tensors, kind)


def check_model(
    file: Path,
    model: nn.Module,
    base: OpenedBase,
    stops: tuple[int, ...],
    fields: Mapping[str, Value],
) -> float:
    """Compares a GGUF file with the merged model, its configuration and the base's tokenizer.

    Returns:
        The largest difference in a tensor, relative to the tensor's largest number.

    Raises:
        AdapterError: the file differs from the model.
    """
    layout = check_writable(base)
    written = read_gguf(file)
    architecture = layout.family.architecture
    check_fields(written, {"general.architecture": architecture, **values_of(fields)})
    check_tokenizer_fields(written.fields, base.tokenizer, stops, base.config.vocab_size)
    if text := written.fields.get(PROMPT):
        ids = base.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        check_fields(written, {PROMPT_IDS: ids})
    largest, expected = 0.0, set()
    for name, values in _tensors(model, layout):
        expected.add(name)
        largest = max(largest, compare(name, written, name, values, layout))
    if other := written.stored.keys() - expected:
        raise AdapterError(f"the file holds tensors that the model does not have: {sorted(other)}")
    return largest
