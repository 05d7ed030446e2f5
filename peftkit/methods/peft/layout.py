"""Saves and loads adapters in PEFT's format."""

from __future__ import annotations

import codecs
import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from peftkit.errors import AdapterError, PeftkitError, first_line, quoted
from peftkit.methods.changed_bases import changed_base
from peftkit.methods.peft.adapter_config import CONFIG, AdapterConfig, read_config
from peftkit.methods.peft.types import ADAPTER_NAME
from peftkit.methods.peft.warnings import without_noise
from peftkit.methods.trained_layout import compare_tensors, fill_tensors
from peftkit.parts.json_values import as_json

WEIGHTS = "adapter_model.safetensors"
WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "encoder_dropout", "eva_config",
    "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_dropout", "megatron_config", "megatron_core",
    "modules_to_save", "parent_library", "peft_version", "revision", "runtime_config",
    "target_modules", "task_type", "ephemeral_gpu_offload", "prompt_tuning_init",
    "prompt_tuning_init_text", "tokenizer_name_or_path", "init_weights",
}  # fmt: skip
"""Fields of PEFT's configurations that `compare_configs` skips. They do not change what a loaded
adapter computes, or they change its tensors' names, which are compared. `changed_base` checks
`init_lora_weights`."""


def save_peft(model: nn.Module, folder: Path) -> None:
    """Writes adapter_config.json and adapter_model.safetensors as PEFT defines them."""
    assert isinstance(model, peft.PeftModel)
    # embeddings are not part of the adapter, and "auto" would ask the Hub about them
    with without_noise(), _as_it_computes(model):
        model.save_pretrained(str(folder), save_embedding_layers=False)


def load_peft(
    model: nn.Module, folder: Path, settings: Mapping[str, object] | None = None
) -> nn.Module:
    """Returns the frozen model with a folder's adapter, after comparing all names and shapes of
    tensors.

    Args:
        settings: field -> value that replaces the one in adapter_config.json.

    Raises:
        AdapterError: the file and the model do not hold the same tensors.
    """
    with _peft_errors(folder):
        marked = (folder / CONFIG).read_bytes().startswith(codecs.BOM_UTF8)
        config = _config_with(folder, settings or {}) if settings or marked else None
        loaded: Any = peft.PeftModel.from_pretrained(model, str(folder), config=config)
    _restore(loaded, folder, ADAPTER_NAME)
    loaded.requires_grad_(False)
    return loaded  # type: ignore[no-any-return]


def _config_with(folder: Path, settings: Mapping[str, object]) -> peft.PeftConfig:
    """Reads an adapter's configuration as PEFT's `from_pretrained` does, after `settings` has
    replaced some fields.
    """
    fields = AdapterConfig({**read_config(folder), **settings})
    kind: Any = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(fields.kind)]
    read = {name: value for name, value in fields.items() if name != "runtime_config"}
    return kind.from_peft_type(**kind.check_kwargs(**read))  # type: ignore[no-any-return]


def add_peft(model: nn.Module, folder: Path, name: str) -> None:
    """Loads another adapter into a model that `load_peft` returned; `model.set_adapter(name)`
    activates it.

    Raises:
        AdapterError: the file and the model do not hold the same tensors.
    """
    with _peft_errors(folder):
        model.load_adapter(str(folder), adapter_name=name)  # type: ignore[operator]
    _restore(model, folder, name)
    model.requires_grad_(False)


def restore_peft(model: nn.Module, folder: Path) -> None:
    """Loads a folder's tensors into the trainable tensors of a model from `inject_peft`.

    Raises:
        AdapterError: the file and the model do not hold the same tensors, or differ in a setting
            that changes what the adapter computes.
    """
    compare_configs(model, folder)
    live = saved_tensors(model)
    stored = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    if computed := [key for key, tensor in live.items() if tensor.data_ptr() not in stored]:
        raise AdapterError(
            f"training cannot continue from {quoted(computed, 3)}, which PEFT computes only when "
            "it saves an adapter",
            "use one of peftkit's own methods, such as LoRA, PrefixTuning or PromptTuning",
        )
    fill_tensors(live, folder / WEIGHTS)


def saved_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Returns the tensors of a model's adapter under their names in the saved file."""
    return _tensors(model, ADAPTER_NAME)


def _tensors(model: Any, name: str, embeddings: bool = False) -> dict[str, torch.Tensor]:
    with without_noise(), _as_it_computes(model):
        tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(
            model, adapter_name=name, save_embedding_layers=embeddings
        )
    return tensors


def _as_it_computes(model: Any) -> contextlib.AbstractContextManager[object]:
    """Computes in the dtype of the base inside the block: of virtual tokens that a network makes,
    PEFT saves only the network's output, which is then the one that the trained model reads.
    """
    dtype, device = model.get_base_model().dtype, model.device.type
    if dtype not in (torch.bfloat16, torch.float16) or device == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device, dtype)


def compare_configs(model: Any, folder: Path) -> None:
    """Compares a folder's adapter_config.json with the model's configuration.

    Raises:
        AdapterError: they differ in a setting that changes what the adapter computes.
    """
    live = model.peft_config[ADAPTER_NAME].to_dict()
    saved = read_config(folder)
    if not saved:
        raise AdapterError(
            f"`{folder}` has no adapter_config.json with settings",
            "give an adapter that PEFT or a peftkit method such as LoRA saved",
        )
    if changed := changed_base(saved):
        message, hint = changed
        raise AdapterError(f"the adapter in `{folder}`: {message}", hint)
    unknown = [name for name in saved.keys() - live.keys() - WITHOUT_EFFECT if saved[name]]
    wrong = [f"`{name}` is not known to this version of PEFT" for name in sorted(unknown)]
    wrong += [
        f"`{name}` is {saved[name]!r} and not {as_json(live[name])!r}"
        for name in sorted(live.keys() & saved.keys() - WITHOUT_EFFECT)
        if saved[name] != as_json(live[name]) and (saved[name] or live[name])
    ]
    if wrong:
        raise AdapterError(
            f"the adapter in `{folder}` has other settings than the recipe's method: "
            f"{'; '.join(wrong)}",
            "give `method` the settings of the adapter",
        )


@contextlib.contextmanager
def _peft_errors(folder: Path) -> Iterator[None]:
    """A context that turns PEFT's errors about an adapter folder into AdapterErrors."""
    if not (folder / CONFIG).is_file():  # PEFT would look for it on the Hub
        raise AdapterError(f"`{folder}` has no {CONFIG}")
    with without_noise():
        # PEFT warns of a trained tied layer; merging and exporting compare the answers anyway
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")
        try:
            yield
        except PeftkitError:
            raise
        except Exception as error:  # whatever PEFT meets in settings that it does not check
            message = first_line(error)
            if isinstance(error, AttributeError | LookupError):  # a name alone says little
                message = f"{type(error).__name__}: {message}"
            if message.endswith(":"):  # torch lists the mismatches in the lines below
                message = first_line(ValueError(str(error).partition("\n")[2]))
            raise AdapterError(f"PEFT cannot load `{folder}`: {message}") from error


def _restore(model: Any, folder: Path, name: str) -> None:
    """Loads the saved tensors again, since PEFT rounds some of them to the base's dtype. Each
    tensor gets its saved dtype or its dtype in the model, whichever is wider. Compares names and
    shapes first.
    """
    saved = load_file(folder / WEIGHTS)
    live = _tensors(model, name)
    if saved.keys() - live.keys():  # PEFT saves adapted embeddings whole too
        more = _tensors(model, name, embeddings=True)
        live |= {key: tensor for key, tensor in more.items() if key in saved}
    compare_tensors(folder / WEIGHTS, {key: tuple(t.shape) for key, t in live.items()})
    parameters: dict[int, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        parameters.setdefault(parameter.data_ptr(), []).append(parameter)
    for key, tensor in saved.items():
        targets = parameters.get(live[key].data_ptr(), [])
        if len(targets) > 1:  # the output layer's adapter is the embedding's, transposed
            live[key].data.copy_(tensor)
        for parameter in targets if len(targets) == 1 else ():
            dtype = torch.promote_types(parameter.dtype, tensor.dtype)
            # copied, so that it is aligned and does not keep the file open
            parameter.data = tensor.to(parameter.device, dtype, copy=True)
