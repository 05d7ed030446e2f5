"""Opens a base: its files, configuration and tokenizer, but no weights.

Four forms lead to one local folder: a Hub id (small files are downloaded now, weights when they
are loaded), a local folder, a GGUF file (dequantized once into a cache), `packaged:NAME`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peftkit.bases.base import Base
from peftkit.bases.gguf import dequantized
from peftkit.errors import BaseModelError, did_you_mean_file
from peftkit.packaged import MODELS, PREFIX, find_packaged

SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.py"]
WEIGHT_FILES = ["model*.safetensors", "pytorch_model*.bin"]
"""In order of preference; other weight formats in a repository are not downloaded."""

POSITIONS_AFTER_PADDING = (
    "camembert", "data2vec-text", "ibert", "longformer", "luke", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
"""Families whose first position is `pad_token_id + 1`, so that they read fewer tokens than they
have positions."""


@dataclass(frozen=True)
class OpenedBase:
    """A base before its weights: everything that can be checked cheaply."""

    spec: Base
    folder: Path
    """Local folder that transformers loads: of the user, the Hub cache or the GGUF cache."""
    config: Any
    """transformers' PreTrainedConfig."""
    tokenizer: Any
    """transformers' tokenizer; it has a padding token, and knows the base's length limit."""
    hub_id: str = ""
    """The Hub repository that holds exactly these bytes, if there is one."""
    revision: str = ""
    """Its commit, as far as it is known."""
    source: Path | None = None
    """The GGUF file the folder was dequantized from."""

    @property
    def name(self) -> str:
        """How a person calls it."""
        return self.hub_id or self.spec.name_or_path


def open_base(base: Base) -> OpenedBase:
    """Finds the files of a base and reads its configuration and tokenizer.

    Raises:
        BaseModelError: nothing is there, or it is not a model that transformers can load.
        MissingPackageError: a `packaged:` base whose package is not installed.
    """
    from transformers import AutoConfig, AutoTokenizer

    found = _find(base)
    options = {"trust_remote_code": base.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(found.folder, **options)
        tokenizer = AutoTokenizer.from_pretrained(found.folder, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise BaseModelError(
            f"`{base.name_or_path}` cannot be opened: {_first_line(error)}",
            "it needs a config.json and tokenizer files that this version of transformers knows",
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    if config.model_type in POSITIONS_AFTER_PADDING:
        positions -= (config.pad_token_id or 0) + 1
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return replace(found, config=config, tokenizer=tokenizer)


def download_weights(base: OpenedBase) -> None:
    """Completes the folder of a Hub base with its weight files; others have them already."""
    if base.source is not None or base.folder.parent.name != "snapshots":
        return
    for pattern in WEIGHT_FILES:
        _snapshot(base.spec, [pattern, pattern + ".index.json"])
        if any(base.folder.glob(pattern)):
            return
    raise BaseModelError(
        f"`{base.spec.name_or_path}` has none of the weight files {', '.join(WEIGHT_FILES)}",
        "choose a repository with safetensors weights",
    )


def _find(base: Base) -> OpenedBase:
    name = base.name_or_path
    if name.startswith(PREFIX):
        entry, path = find_packaged(name, MODELS)
        return replace(_local(base, path), hub_id=entry.hub_id)
    path = Path(name).expanduser()
    if path.exists():
        return _local(base, path)
    if name.startswith(("/", "./", "../", "~")) or name.endswith(".gguf"):
        raise BaseModelError(f"no file or folder `{name}`", did_you_mean_file(path))
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise BaseModelError(
            f"`{name}` is neither a Hub id (`org/name`), a folder, a .gguf file nor `{PREFIX}NAME`"
        )
    folder = _snapshot(base, SMALL_FILES)
    return OpenedBase(base, folder, None, None, hub_id=name, revision=folder.name)


def _local(base: Base, path: Path) -> OpenedBase:
    if path.is_file():
        if path.suffix != ".gguf":
            raise BaseModelError(
                f"`{base.name_or_path}` is a file", "give the model's folder, or a .gguf file"
            )
        return OpenedBase(base, dequantized(path), None, None, source=path)
    if not (path / "config.json").is_file():
        raise BaseModelError(
            f"the folder `{path}` has no config.json",
            "give the folder that transformers' `save_pretrained` wrote",
        )
    return OpenedBase(base, path, None, None)


def _snapshot(base: Base, patterns: list[str]) -> Path:
    """The base's folder in the Hub cache, with at least the files that match the patterns."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                base.name_or_path, revision=base.revision or None, allow_patterns=patterns
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise BaseModelError(
            f"`{base.name_or_path}` is no local folder, and the Hub does not give it: "
            f"{_first_line(error)}",
            "check the id and the network, log in with `hf auth login` if it is gated, "
            "or give a local folder",
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
