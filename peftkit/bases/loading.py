"""Loads an opened base: the model with its weights and the task's head."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

from peftkit.bases.files import download_weights
from peftkit.bases.loaded_model import LoadedModel
from peftkit.bases.opened import OpenedBase
from peftkit.bases.quantizing import (
    count_quantized,
    keep_differentiable,
    quantization_of,
    settle_quantized,
)
from peftkit.bases.resizing import as_in_files, resize_vocabulary
from peftkit.data.head import Head
from peftkit.errors import BaseModelError, quoted

if TYPE_CHECKING:
    import torch


def empty_model(base: OpenedBase, head: Head, dropout: float | None = None) -> LoadedModel:
    """Makes the model on the meta device, with names and shapes but without weights in memory.

    Raises:
        BaseModelError: the architecture cannot serve the task, or has no dropout to set.
    """
    import torch

    from peftkit.bases.pooled import check_first_token

    config = config_with_head(base, head, dropout)
    auto = model_class(head, config, base.name)
    try:
        with torch.device("meta"):
            model = auto.from_config(config, trust_remote_code=base.spec.trust_remote_code)
            resize_vocabulary(model, base)
    except ValueError as error:
        if head.pooling or type(config) in auto._model_mapping:
            raise BaseModelError(f"the config.json of `{base.name}` is wrong: {error}") from error
        known = sorted({config_class.model_type for config_class in auto._model_mapping})
        raise BaseModelError(
            f"`{base.name}` is a {config.model_type} model, and transformers has no "
            f"{head.auto_class} for that architecture",
            f"choose a base of another architecture, such as "
            f"{quoted(t for t in ('bert', 'roberta', 'llama', 'qwen3', 'gpt2') if t in known)}",
        ) from error
    if head.pooling:
        check_first_token(model, base.name)
    return LoadedModel(model, _head_modules(model, head, ()))


def model_class(head: Head, config: Any, name: str) -> Any:
    """The class that makes or loads a model with the task's head: one of transformers' AutoModels,
    or peftkit's pooled classifier.

    Args:
        config: the model's configuration.
        name: the base's name for messages.

    Raises:
        BaseModelError: the architecture cannot be pooled.
    """
    import transformers

    from peftkit.bases.pooled import pooled_class

    return pooled_class(config, name) if head.pooling else getattr(transformers, head.auto_class)


def load_weights(
    base: OpenedBase, head: Head, dtype: torch.dtype, device: torch.device, dropout: float | None
) -> LoadedModel:
    """Loads the model with the task's head and embeddings for added tokens; quantizes the model as
    the base's `quantization` says.

    Weights missing in the checkpoint are drawn from torch's global generator: seed it first.

    Raises:
        BaseModelError: the checkpoint lacks weights of the trunk, so they would be random.
    """
    import torch

    download_weights(base)
    empty = empty_model(base, head, dropout)
    config = config_with_head(base, head, dropout)
    options: dict[str, Any] = {"dtype": dtype}
    if quantized := base.spec.quantization != "none":
        # quantize the numbers in the checkpoint: then quantized weights are the same for all dtypes
        # of the computation
        options |= {"dtype": torch.float32, "device_map": {"": device}}
        quantization = quantization_of(base, dtype, empty)
        if base.prequantized:
            config.quantization_config = quantization.to_dict()
        else:
            options["quantization_config"] = quantization
    model, report = model_class(head, config, base.name).from_pretrained(
        base.folder,
        config=config,
        trust_remote_code=base.spec.trust_remote_code,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # a head for other labels; checked below
        key_mapping=_key_mapping(empty.model),
        **options,
    )
    fresh = [*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])]
    modules = _head_modules(model, head, fresh)
    _refuse_random_trunk(base, fresh, modules)
    resize_vocabulary(model, base)
    counted = None
    if quantized:
        settle_quantized(model, dtype)
        counted = count_quantized(model, modules)
    else:
        model.to(device)
    keep_differentiable(model)
    if head.generation:  # else the base's settings would replace missing ones
        model.generation_config = generation_config(head, base.tokenizer.pad_token_id)
    return LoadedModel(model, modules, tuple(fresh), counted)


def _refuse_random_trunk(base: OpenedBase, fresh: list[str], modules: tuple[str, ...]) -> None:
    """Raises BaseModelError if a base's checkpoint lacks weights outside the head's modules.

    Args:
        fresh: names of the parameters missing in the checkpoint.
        modules: names of the head's modules.
    """
    random = [key for key in fresh if not key.startswith(tuple(m + "." for m in modules))]
    if random:
        raise BaseModelError(
            f"the checkpoint of `{base.name}` has no weights for {quoted(sorted(random))}; "
            "they would be random",
            "it is incomplete, or has another architecture than its config.json says",
        )


def generation_config(head: Head, pad_token_id: int) -> Any:
    """The head's generation settings as transformers' `GenerationConfig`."""
    import transformers

    settings: Any = transformers.GenerationConfig
    return settings(**head.generation, pad_token_id=pad_token_id)


def has_tied_output(model: Any) -> bool:
    """Whether the config ties a language model's output layer to its embedding, and the two layers
    are still equal. They differ if only one of them was trained.
    """
    output, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if output is None or not model.config.tie_word_embeddings:
        return False
    same = output.weight is embedding.weight or output.weight.equal(embedding.weight)
    return bool(same)


def config_with_head(base: OpenedBase, head: Head, dropout: float | None) -> Any:
    """The transformers configuration for the base's model with the task's head."""
    from peftkit.bases.pooled import FIELD, PLACES

    config = copy.deepcopy(base.config)
    if head.num_outputs:
        config.num_labels = head.num_outputs
    if head.problem_type:
        config.problem_type = head.problem_type
    if head.labels:
        config.id2label = dict(enumerate(head.labels))
        config.label2id = {label: index for index, label in enumerate(head.labels)}
    config.pad_token_id = base.tokenizer.pad_token_id
    config = as_in_files(config, base)
    if head.pooling:
        setattr(config, FIELD, head.pooling)
    if head.markers:
        setattr(config, PLACES, len(head.markers))
    for field, wanted in ((FIELD, head.pooling), (PLACES, head.markers)):
        if hasattr(config, field) and not wanted:  # the base is a merged model of peftkit
            delattr(config, field)
    if dropout is not None:
        names = [
            name
            for name, value in config.to_dict().items()
            if ("dropout" in name or name.endswith("pdrop")) and not isinstance(value, bool)
        ]
        if not names:
            raise BaseModelError(
                f"`training.dropout` is {dropout}, but {config.model_type} models have no dropout",
                "leave it out, or use the method's own (`lora_dropout`)",
            )
        for name in names:
            setattr(config, name, dropout)
    return config


def _head_modules(model: Any, head: Head, fresh: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Names of the head's modules, and of a pooler missing in the checkpoint."""
    trunk = {model.base_model_prefix}
    if not hasattr(model, model.base_model_prefix):  # T5's model holds the trunk's modules itself
        trunk = _trunk_children(model.config)
    head_modules = [
        name
        for name, module in model.named_children()
        if name not in trunk and any(True for _ in module.parameters())
    ]
    poolers = {match[0] for key in fresh if (match := re.match(r"(.*?\.)?pooler(?=\.)", key))}
    return (*(head_modules if head.trained else ()), *sorted(poolers))


def _key_mapping(model: Any) -> dict[str, str] | None:
    """Pattern -> replacement, to rename a checkpoint's tensors for the model; None if no tensor
    needs another name.

    Llama's question answering model names its trunk `transformer`, but checkpoints of Llama name it
    `model`, so transformers would leave the trunk random.
    """
    import transformers

    auto: Any = transformers.AutoModelForCausalLM
    if type(model.config) not in auto._model_mapping:
        return None
    prefix = auto._model_mapping[type(model.config)].base_model_prefix
    if prefix == model.base_model_prefix:
        return None
    return {rf"^{prefix}\.": f"{model.base_model_prefix}."}


def _trunk_children(config: Any) -> set[str]:
    """Names of the top-level modules in the architecture's model without a head."""
    import torch
    import transformers

    auto: Any = transformers.AutoModel
    with torch.device("meta"):
        bare = auto.from_config(config)
    return {name for name, _ in bare.named_children()}
