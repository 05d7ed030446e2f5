"""Virtual tokens before the text, shared by prefix tuning, prompt tuning and p-tuning.

PEFT puts them before the padding of a left-padded row, [virtual][padding][text]. In a decoder this
is wrong: position numbers count the padding, and a classifier with embeddings as input reads the
last position even if it is padding. A hook before the base model's forward pass makes the row
[padding][virtual][text], with positions that count tokens only. Training, scoring and `generate`
are then correct in batches, whoever calls the model.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from peftkit.bases.pooled import is_pooled
from peftkit.errors import MethodError
from peftkit.methods.peft.injection import inject_peft
from peftkit.methods.peft.layout import WEIGHTS, compare_configs, load_peft
from peftkit.methods.peft.types import ADAPTER_NAME
from peftkit.methods.trained_layout import fill_tensors

if TYPE_CHECKING:
    import peft

SIZES = ("num_layers", "token_dim", "num_attention_heads", "num_transformer_submodules")
"""Fields of PEFT's configurations of virtual tokens; each holds a size of the base."""


def inject_virtual(
    model: nn.Module, config: peft.PromptLearningConfig, field: str = "method"
) -> nn.Module:
    """Returns the model with virtual tokens that are correct in padded batches.

    Args:
        field: name of the recipe's field that holds the configuration, for messages.

    Raises:
        MethodError: the architecture takes no virtual tokens, or a given size differs from the
            base's size.
    """
    base: Any = model
    if base.config.is_encoder_decoder and config.task_type != "SEQ_2_SEQ_LM":
        raise MethodError(
            f"{type(model).__name__} also reads the text's token ids, and virtual tokens have none",
            "use LoRA for this task, or virtual tokens with a sequence-to-sequence head",
        )
    if config.task_type == "QUESTION_ANS" and getattr(base.config, "type_vocab_size", 1) > 1:
        raise MethodError(
            f"{type(model).__name__} tells question and text apart by segment ids, and PEFT does "
            "not pass them on with virtual tokens",
            "use LoRA",
        )
    if config.peft_type == "PREFIX_TUNING" and not _accepts_cache(base):
        raise MethodError(
            f"{type(model).__name__} takes no cache of keys and values, which a prefix needs",
            "use LoRA",
        )
    _check_sizes(base, config, field)
    if config.num_attention_heads is None:  # PEFT does not know every base's name for it
        config.num_attention_heads = getattr(base.config, "num_attention_heads", None)
    return add_placing_hooks(inject_peft(model, config, field))


def _check_sizes(base: Any, config: peft.PromptLearningConfig, field: str) -> None:
    """Raises MethodError if a size that the user set differs from the one that PEFT reads from the
    base.
    """
    from peft.utils import other

    set_sizes = [name for name in SIZES if getattr(config, name) is not None]
    if not set_sizes or base.config.is_encoder_decoder:
        return
    of_base, of_user = copy.copy(config), copy.copy(config)
    for name in SIZES:
        setattr(of_base, name, None)
    try:
        complete: Any = other._prepare_prompt_learning_config
        of_base, of_user = (complete(config, base.config) for config in (of_base, of_user))
    except ValueError:  # PEFT does not know the names of the sizes
        return
    of_base.num_transformer_submodules = 1
    wrong = [name for name in set_sizes if getattr(of_user, name) != getattr(of_base, name)]
    if config.peft_type != "PREFIX_TUNING" and config.token_dim == embedding_width(base):
        wrong = [name for name in wrong if name != "token_dim"]
    if wrong:
        raise MethodError(
            f"`{field}.{wrong[0]}` is {getattr(config, wrong[0])}, and {type(base).__name__} has "
            f"{getattr(of_base, wrong[0])}",
            "leave it out: it is read from the base",
        )


def _accepts_cache(base: Any) -> bool:
    """Whether the model, or the trunk under its head, accepts past keys and values."""
    trunk = getattr(base, base.base_model_prefix, base)
    modules = (trunk,) if is_pooled(base) else (base, trunk)
    return any("past_key_values" in inspect.signature(m.forward).parameters for m in modules)


def load_virtual(
    model: nn.Module, folder: Path, settings: Mapping[str, object] | None = None
) -> nn.Module:
    """Loads an adapter like `load_peft`, and makes its virtual tokens correct in padded batches."""
    return add_placing_hooks(load_peft(model, folder, settings))


def restore_virtual(model: nn.Module, folder: Path) -> None:
    """Loads a folder's virtual tokens and head into a model, to train them further.

    Raises:
        AdapterError: names, shapes or settings differ between the folder and the model.
    """
    compare_configs(model, folder)
    prompt: Any = model.prompt_encoder[ADAPTER_NAME]  # type: ignore[index]
    live: dict[str, Any] = {"prompt_embeddings": prompt.embedding.weight}
    live |= {
        name.replace(".modules_to_save.default", ""): parameter
        for name, parameter in model.named_parameters()
        if ".modules_to_save.default" in name
    }
    fill_tensors(live, folder / WEIGHTS)


def embedding_width(model: nn.Module) -> int:
    """Returns the width of the input embeddings; in ELECTRA and ALBERT, hidden states are wider."""
    embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
    return int(embeddings.weight.shape[1])


def add_placing_hooks(model: nn.Module) -> nn.Module:
    """Returns the model with hooks on its base: `_place` on a decoder, and `_count_virtual` on a
    classifier that pools hidden states.
    """
    base: Any = model.base_model
    config: Any = model.peft_config[ADAPTER_NAME]  # type: ignore[index]
    in_cache = config.peft_type == "PREFIX_TUNING"
    pooled = is_pooled(base)
    if pooled and not in_cache:
        count = partial(_count_virtual, count=config.num_virtual_tokens)
        base.register_forward_pre_hook(count, with_kwargs=True)
    if reads_left_to_right(base):
        reads_last = config.task_type == "SEQ_CLS" and not in_cache and not pooled
        hook = partial(_place, in_cache=in_cache, reads_last=reads_last)
        base.register_forward_pre_hook(hook, with_kwargs=True)
    return model


def reads_left_to_right(base: Any) -> bool:
    """Whether the model is a decoder: a token's hidden state does not depend on later tokens.

    Runs a forward pass to find out, unless a module declares `is_causal`.
    """
    if base.config.is_encoder_decoder or base.device.type == "meta":
        return False
    if any(getattr(module, "is_causal", False) for module in base.modules()):
        return True
    trunk = getattr(base, base.base_model_prefix, base)
    texts = torch.tensor([[5, 6, 7], [5, 6, 8]], device=base.device)
    training = trunk.training
    with torch.no_grad():
        hidden = trunk.eval()(input_ids=texts, output_hidden_states=True).hidden_states[-1]
    trunk.train(training)
    return bool(torch.allclose(hidden[0, 0], hidden[1, 0], rtol=1e-4, atol=1e-5))


def _count_virtual(
    _: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, count: int
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """A forward hook that tells a pooling classifier how many of its input embeddings are virtual
    tokens.
    """
    if kwargs.get("inputs_embeds") is None:
        return None
    return args, {**kwargs, "num_virtual_tokens": count}


def _place(
    base: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    in_cache: bool,
    reads_last: bool,
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """A forward hook that moves a decoder's padding before the virtual tokens, and computes
    position numbers without padding.

    Args:
        in_cache: True if virtual tokens are keys and values in the cache (prefix tuning), which
            cannot be moved; False if they are embeddings before the text.
        reads_last: whether the head reads the last position, as decoders' classifiers do.
    """
    mask, embeddings = kwargs.get("attention_mask"), kwargs.get("inputs_embeds")
    if mask is None or mask.dim() != 2 or mask.is_meta or bool(mask.all()):
        return None
    left_padded = bool(mask[:, -1].all())
    if not left_padded and not (reads_last and embeddings is not None):
        return None  # padding comes last, where it does no harm
    if in_cache:
        _check_window(base, mask.shape[1])
    else:
        order = mask.bool().int().argsort(dim=1, stable=True)  # (rows, width), padding first
        mask = mask.gather(1, order)
        if embeddings is not None:
            embeddings = embeddings.gather(1, order[..., None].expand_as(embeddings))
    width = (kwargs["input_ids"] if embeddings is None else embeddings).shape[1]
    changed = {"attention_mask": mask, "position_ids": _positions(mask, width)}
    if "position_ids" not in inspect.signature(base.forward).parameters:
        del changed["position_ids"]  # positions are biases made from the mask (ALiBi)
    if embeddings is not None:
        changed["inputs_embeds"] = embeddings
    return args, {**kwargs, **changed}


def _positions(mask: Tensor, width: int) -> Tensor:
    """Returns position numbers that skip padding, (rows, width), for the last `width` columns."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -width:]


def window(config: Any) -> int | None:
    """Returns how many tokens a sliding layer looks back; None if the model has no such layer."""
    types = getattr(config, "layer_types", None)
    if types is not None and "sliding_attention" not in types:
        return None
    size: int | None = getattr(config, "sliding_window", None)
    if "local" in getattr(config, "attention_layers", ()):  # GPT-Neo
        size = config.window_size
    return size


def _check_window(base: Any, length: int) -> None:
    """Raises MethodError if rows with padding after the prefix are longer than a sliding window."""
    size = window(base.config)
    if size is not None and length > size:
        raise MethodError(
            f"{type(base).__name__} looks back {size} tokens, including padding between prefix and "
            f"text; the rows have {length} tokens",
            "generate from prompts of one length at a time, as `peftkit` does",
        )
