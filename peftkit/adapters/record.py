"""peftkit.json: an adapter's record, used to check the adapter on any machine.

The record is published with the adapter, so it holds no rows of data and no local paths.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from peftkit.adapters.inspection.digests import (
    RECORD,
    SavedTensor,
    json_sha256,
    record_sha256,
    tensor_sha256,
)
from peftkit.adapters.inspection.headers import read_header
from peftkit.adapters.probes import Probe
from peftkit.adapters.recorded_recipe import RecordedRecipe
from peftkit.bases.fingerprint import RecordedBase
from peftkit.bases.packages import installed_version
from peftkit.data.head import Head
from peftkit.errors import AdapterError
from peftkit.methods.peft.adapter_config import AdapterConfig
from peftkit.parts import records
from peftkit.recipe import Recipe
from peftkit.tasks.answers import Decision

FORMAT = 1
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets", "evaluate")


@dataclass(frozen=True)
class Rewound:
    """How `peftkit rewind` made an adapter."""

    scale: float
    """Strength of the update, as a share of the trained strength."""
    source: dict[str, str]
    """`Record.weights` of the adapter before rewinding; named `from` in peftkit.json."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """The content of peftkit.json."""

    recipe: RecordedRecipe
    """The recipe with all defaults; local paths are cut to their last part."""
    base: RecordedBase | None
    """The base of training; None for other programs' adapters, which do not record it."""
    tokenizer_sha256: str
    chat_template_sha256: str
    """Digest of the tokenizer's chat template; empty if it has none."""
    head: Head
    weights: dict[str, str]
    """Name of a weight file -> SHA-256."""
    tensors: dict[str, dict[str, SavedTensor]] = field(default_factory=dict)
    """File name -> tensor name -> dtype, shape and digest; empty in records of early versions."""
    peft_config: AdapterConfig = field(default_factory=AdapterConfig)
    """The content of adapter_config.json; empty for methods without this file."""
    configs: dict[str, str]
    """Name of a JSON file beside the weights -> SHA-256 of its content without formatting."""
    metrics: dict[str, dict[str, float]]
    """`before`, `after` or a baseline's name -> metric -> score on the test split."""
    probes: tuple[Probe, ...]
    versions: dict[str, str]
    rewound: Rewound | None = None
    """How the adapter was rewound; None (and no field in peftkit.json) if it was not."""
    decision: Decision = field(default_factory=Decision)
    """What the task decided on the validation split; no field in peftkit.json if empty."""

    @property
    def known_base(self) -> RecordedBase:
        """The record's `base`, for records that peftkit saved: their `base` is never None."""
        assert self.base is not None
        return self.base

    def write(self, folder: Path) -> None:
        """Writes peftkit.json."""
        value = self.to_json()
        value["sha256"] = record_sha256(value)
        text = json.dumps(value, indent=1, ensure_ascii=False)
        (folder / RECORD).write_text(text + "\n", encoding="utf-8")

    def to_json(self) -> dict[str, object]:
        """The content of peftkit.json, without its field `sha256`."""
        value = {"format": FORMAT, **records.to_json(self)}
        value |= {"recipe": self.recipe.to_json(), "peft_config": dict(self.peft_config)}
        if self.rewound is None:
            del value["rewound"]
        else:
            value["rewound"] = {"scale": self.rewound.scale, "from": self.rewound.source}
        if not self.decision.numbers:
            del value["decision"]
        return value

    @classmethod
    def from_json(cls, value: Any) -> Record:
        """Makes a record from the content of peftkit.json.

        Raises:
            ValueError, KeyError, TypeError or AttributeError: the content is damaged.
        """
        read = {
            "recipe": RecordedRecipe.from_json(value["recipe"]),
            "peft_config": AdapterConfig(dict(value.get("peft_config", {}))),
        }
        if rewound := value.get("rewound"):
            read["rewound"] = Rewound(rewound["scale"], rewound["from"])
        try:
            return records.from_json(cls, {**value, **read})
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"`{place}`: {first['msg']}") from error

    @classmethod
    def read(cls, folder: Path) -> Record:
        """Reads peftkit.json.

        Raises:
            AdapterError: the file is missing, damaged, or in a later format.
        """
        file = folder / RECORD
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
            if (version := value["format"]) != FORMAT:
                raise AdapterError(
                    f"`{file}` has format {version}; this peftkit reads {FORMAT}", "update peftkit"
                )
            return cls.from_json(value)
        except FileNotFoundError as error:
            raise AdapterError(
                f"`{folder}` is not an adapter of peftkit: it has no {RECORD}",
                "give a run folder (`runs/<name>`) or its `adapter` folder",
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AdapterError(f"`{file}` is damaged: {error}") from error


def config_digests(folder: Path) -> dict[str, str]:
    """File name -> digest, for every JSON file of an adapter except peftkit.json.

    Raises:
        AdapterError: one of these files is not JSON.
    """
    digests = {}
    for file in sorted(folder.glob("*.json")):
        if file.name == RECORD:
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise AdapterError(f"`{file}` is not JSON: {error}") from error
        digests[file.name] = json_sha256(content)
    return digests


def tensor_digests(folder: Path) -> dict[str, dict[str, SavedTensor]]:
    """Name of a safetensors file -> tensor name -> dtype, shape and digest."""
    return {
        file.name: {
            name: SavedTensor(stored.dtype, stored.shape, tensor_sha256(file, stored))
            for name, stored in sorted(read_header(file).items())
        }
        for file in sorted(folder.glob("*.safetensors"))
    }


def versions() -> dict[str, str]:
    """Versions of Python, peftkit and the packages that affect results."""
    numbers = {"python": sys.version.split()[0]}
    return numbers | {name: installed_version(name) for name in ("peftkit", *PACKAGES)}


def published_recipe(recipe: Recipe) -> RecordedRecipe:
    """The recipe with every local path cut to its last part."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cut(item) for key, item in value.items()}
        if isinstance(value, list):
            return [cut(item) for item in value]
        if isinstance(value, str) and _is_local_path(value):
            return Path(value).name
        return value

    return RecordedRecipe.from_json(cut(json.loads(recipe.model_dump_json())))


def _is_local_path(text: str) -> bool:
    if text.startswith(("/", "~", "./", "../")) or (len(text) > 2 and text[1:3] in (":\\", ":/")):
        return True
    try:
        return "/" in text and Path(text).exists()
    except OSError:
        return False


def tokenizer_sha256(tokenizer: Any) -> str:
    """Digest of a tokenizer's vocabulary, special tokens and steps.

    Only fast tokenizers list their steps: how they normalize, split and add special tokens.
    """
    vocabulary = sorted(tokenizer.get_vocab().items())
    special = sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items())
    steps: dict[str, object] = {}
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        steps = json.loads(backend.to_str())
        for changed_by_calls in ("truncation", "padding"):
            steps.pop(changed_by_calls, None)
    return hashlib.sha256(json.dumps([vocabulary, special, steps]).encode()).hexdigest()


def chat_template_sha256(tokenizer: Any) -> str:
    """Digest of a tokenizer's chat template; empty if it has none."""
    template = getattr(tokenizer, "chat_template", None)
    return hashlib.sha256(json.dumps(template).encode()).hexdigest() if template else ""
