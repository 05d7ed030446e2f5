"""Recognizes folders of libraries other than PEFT, by the config's fields and the file names.

Uses only the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from peftkit.errors import quoted


class Library(NamedTuple):
    """A library whose folders users mistake for PEFT adapters."""

    name: str
    fields: tuple[str, ...] = ()
    """Config fields; any one of them identifies the library."""
    files: tuple[str, ...] = ()
    """File names; any one of them identifies the library."""
    words: tuple[str, ...] = ()
    """Beginnings of config values; any one of them identifies the library."""
    instead: str = ""
    """Text that says what the user should do with a folder of this library."""


LIBRARIES = (
    Library(
        "diffusers",
        fields=("_diffusers_version", "_class_name"),
        files=("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin", "model_index.json"),
        instead="load it with diffusers (`pipeline.load_lora_weights`)",
    ),
    Library(
        "lerobot",
        fields=("input_features", "output_features", "n_action_steps", "n_obs_steps"),
        files=("train_config.json",),
        words=("lerobot/",),
        instead="load it with lerobot; peftkit does not run its policies",
    ),
    Library(
        "mlx-lm",
        fields=("lora_parameters", "fine_tune_type", "lora_layers"),
        files=("adapters.safetensors", "adapters.npz"),
        instead="load it with mlx-lm, or fuse it there (`mlx_lm.fuse`)",
    ),
    Library(
        "AdapterHub's `adapters`",
        fields=("model_class", "non_linearity", "mh_adapter", "leave_out", "architecture"),
        files=("pytorch_adapter.bin", "adapter.safetensors", "head_config.json"),
        instead="its adapter_config.json lacks `config`, which has the settings: "
        "download it again, or save it again with the library",
    ),
    Library(
        "OpenDelta",
        fields=("delta_type", "opendelta_version"),
        instead="load it with OpenDelta",
    ),
    Library(
        "ms-swift",
        fields=("swift_type", "swift_version"),
        instead="load it with ms-swift, and merge it there",
    ),
    Library(
        "sentence-transformers",
        fields=("word_embedding_dimension", "pooling_mode_mean_tokens"),
        files=("modules.json", "config_sentence_transformers.json"),
        instead="load it with sentence-transformers",
    ),
    Library(
        "transformers",
        fields=("architectures", "model_type", "transformers_version", "tokenizer_class"),
        instead="a transformers model is a base, not an adapter: give it as `--base`",
    ),
)
"""Known libraries, those with the most reliable signs first."""
PEFTS_OWN = ("lora_alpha", "target_modules", "num_virtual_tokens", "inference_mode")
"""Some fields of PEFT's configs, to recognize a config that lacks `peft_type`."""


def no_peft_adapter(config: Mapping[str, object], folder: Path) -> tuple[str, str, str]:
    """Message, meaning and advice for an adapter_config.json without `peft_type`."""
    message = "this is no PEFT adapter: adapter_config.json has no `peft_type`"
    if like := [name for name in PEFTS_OWN if name in config]:
        return (
            message,
            f"its fields are like PEFT's ({quoted(like, 3)}), but PEFT always writes the type",
            "ask whoever published it; if you know the type: `--adapter-setting peft_type=LORA`",
        )
    if found := library_of(config, folder):
        library, signs = found
        return message, f"it looks like a folder of {library.name}, with {signs}", library.instead
    if not config:
        return message, "it is an empty object", "download it again"
    return (
        message,
        f"it has {quoted([str(name)[:40] for name in config], 4)}, fields of no library known to "
        "peftkit",
        "load it with the program that wrote it",
    )


def library_of(config: Mapping[str, object], folder: Path) -> tuple[Library, str] | None:
    """The library that wrote a folder, and the signs of this library; None if it is unknown."""
    for library in LIBRARIES:
        signs = [name for name in library.fields if name in config]
        signs += [
            f"{key}: {value[:60]}"
            for key, value in config.items()
            if isinstance(value, str) and value.startswith(library.words)
        ]
        if signs:
            return library, f"the fields {quoted(signs, 3)}"
    for library in LIBRARIES:
        if files := [name for name in library.files if (folder / name).is_file()]:
            return library, f"the files {quoted(files, 2)}"
    return None
