"""Injecting, saving and loading through PEFT, shared by the methods that PEFT has."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peft
from peft.utils import get_peft_model_state_dict
from torch import nn

from peftkit.errors import AdapterError, MethodError, quoted
from peftkit.methods.trained_layout import compare_tensors

if TYPE_CHECKING:
    from collections.abc import Iterable

WEIGHTS = "adapter_model.safetensors"


def inject_peft(model: nn.Module, config: peft.PeftConfig) -> nn.Module:
    """The model wrapped by PEFT with one adapter, named `default`.

    Raises:
        MethodError: PEFT finds nothing to adapt in this architecture.
    """
    try:
        return peft.get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise MethodError(
            f"PEFT cannot put {config.peft_type} into {type(model).__name__}: {reason}"
        ) from error


def check_targets(
    model: nn.Module, wanted: Iterable[str], head: tuple[str, ...], kinds: tuple[type, ...]
) -> None:
    """Raises MethodError for every wanted module name that no layer of these kinds has.

    PEFT itself passes over a misspelled name in silence as long as another one matches.
    """
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, kinds) and not name.startswith(head)
    ]
    missing = [w for w in wanted if not any(n == w or n.endswith("." + w) for n in layers)]
    if missing:
        known = sorted({name.rsplit(".", 1)[-1] for name in layers})
        raise MethodError(
            f"`method.target_modules`: no layer of {type(model).__name__} is named "
            f"{quoted(missing)}",
            f"its layers are {quoted(known)}; `all-linear` takes all of them",
        )


def beyond_peft(head: tuple[str, ...]) -> list[str] | None:
    """For `modules_to_save`: modules of the head that PEFT does not add by itself."""
    return [name for name in head if name not in ("classifier", "score")] or None


def save_peft(model: nn.Module, folder: Path) -> None:
    """Writes adapter_config.json and adapter_model.safetensors as PEFT defines them."""
    assert isinstance(model, peft.PeftModel)
    # embeddings are not part of the adapter, and "auto" would ask the Hub about them
    model.save_pretrained(str(folder), save_embedding_layers=False)


def load_peft(model: nn.Module, folder: Path) -> nn.Module:
    """The model with the adapter of a folder, after comparing every name and shape.

    Raises:
        AdapterError: the file and the model do not hold the same tensors.
    """
    if not (folder / "adapter_config.json").is_file():  # PEFT would look for it on the Hub
        raise AdapterError(f"`{folder}` has no adapter_config.json")
    with warnings.catch_warnings():  # PEFT only warns of what is an error below
        warnings.filterwarnings("ignore", "Found missing adapter keys")
        loaded: Any = peft.PeftModel.from_pretrained(model, str(folder))
    expected = {
        name: tuple(tensor.shape)
        for name, tensor in get_peft_model_state_dict(loaded, save_embedding_layers=False).items()
    }
    compare_tensors(folder / WEIGHTS, expected)
    loaded.requires_grad_(False)
    return loaded  # type: ignore[no-any-return]
