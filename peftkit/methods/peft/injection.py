"""Wraps a model with a PEFT adapter."""

from __future__ import annotations

import peft
from torch import nn
from transformers.pytorch_utils import Conv1D

from peftkit.methods.peft.misfits import check_saved_modules, check_trainable, misfit
from peftkit.methods.peft.types import kind_of
from peftkit.methods.peft.warnings import without_noise
from peftkit.methods.targets.layers import linear_names


def inject_peft(model: nn.Module, config: peft.PeftConfig, field: str = "method") -> nn.Module:
    """Returns the model wrapped by PEFT with one adapter, named `ADAPTER_NAME`.

    Args:
        field: name of the recipe's field that holds the configuration, for messages.

    Raises:
        MethodError: PEFT finds nothing to adapt in this architecture, or cannot adapt it.
    """
    if config.task_type == "QUESTION_ANS" and not config.is_prompt_learning:
        config.task_type = None  # PEFT's wrapper for it drops `token_type_ids`
    whole = tuple(getattr(config, "modules_to_save", None) or ())
    check_trainable(model, whole, field)
    layers = linear_names(model, (*whole, "classifier", "score"), kind_of(config))
    try:
        with without_noise():
            injected = peft.get_peft_model(model, config, low_cpu_mem_usage=is_rehearsal(model))
    except RuntimeError as error:  # the method needs values, which `rehearse` then gives it
        if isinstance(error, NotImplementedError) and "meta" not in str(error):
            raise misfit(error, model, layers, config, field) from error
        raise
    except Exception as error:  # PEFT raises whatever it meets in an architecture
        raise misfit(error, model, layers, config, field) from error
    # PEFT may have added modules to `modules_to_save`
    check_saved_modules(injected, getattr(config, "modules_to_save", None) or (), field)
    return injected


def is_rehearsal(model: nn.Module) -> bool:
    """Whether the model's tensors have no values, as when `peftkit check` counts parameters."""
    return next(model.parameters()).is_meta


def fan_in_fan_out(model: nn.Module) -> bool:
    """Whether layers store their weight transposed, (in, out), as GPT-2's Conv1D does."""
    return any(isinstance(module, Conv1D) for module in model.modules())


def modules_to_save(task_type: str, head: tuple[str, ...]) -> list[str] | None:
    """Returns the head's modules without those that PEFT itself adds to `modules_to_save`."""
    added = ("classifier", "score") if task_type in ("SEQ_CLS", "TOKEN_CLS") else ()
    return [name for name in head if name not in added] or None
