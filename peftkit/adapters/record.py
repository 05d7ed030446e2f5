"""peftkit.json: what an adapter says of itself, so that it can be checked wherever it goes.

It is published with the adapter, so it holds no rows of data and no local paths.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from peftkit.adapters.inspection.digests import (
    CONFIG,
    RECORD,
    json_sha256,
    record_sha256,
    tensor_sha256,
)
from peftkit.adapters.inspection.headers import read_header
from peftkit.adapters.probes import Probe
from peftkit.data.head import Head
from peftkit.errors import AdapterError
from peftkit.recipe import Recipe
from peftkit.tasks.answers import Decision

FORMAT = 1
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets", "evaluate")


@dataclass(frozen=True)
class Record:
    """The content of peftkit.json."""

    recipe: dict[str, Any]
    """As it was resolved, with local paths cut to their last part."""
    base: dict[str, Any]
    """The base's `Fingerprint`; `dtype`, of its weights in training; `unquantized`, the modules of
    a quantized base that hold weights and are not quantized, embeddings left out.
    """
    tokenizer_sha256: str
    chat_template_sha256: str
    """Empty where the tokenizer has no chat template."""
    head: Head
    weights: dict[str, str]
    """File name -> SHA-256."""
    tensors: dict[str, dict[str, Any]]
    """File name -> tensor -> dtype, shape, SHA-256 of its bytes."""
    peft_config: dict[str, Any]
    """The content of adapter_config.json; empty for methods that have none."""
    configs: dict[str, str]
    """JSON file beside the weights -> SHA-256 of its content, whatever its formatting."""
    metrics: dict[str, dict[str, float]]
    """`before` and `after` on the test split, and baselines by name."""
    probes: tuple[Probe, ...]
    versions: dict[str, str]
    rewound: dict[str, Any] = field(default_factory=dict)
    """`scale` beside what was trained, and `from`, the `weights` of the adapter that was rewound;
    empty if none was."""

    decision: Decision = field(default_factory=Decision)
    """What the task decided on the validation split; left out of the file if that is nothing."""

    def write(self, folder: Path) -> None:
        """Writes peftkit.json."""
        value = {"format": FORMAT, **asdict(self)}
        for name, there in (("rewound", self.rewound), ("decision", self.decision.numbers)):
            if not there:
                del value[name]
        value["sha256"] = record_sha256(value)
        text = json.dumps(value, indent=1, ensure_ascii=False)
        (folder / RECORD).write_text(text + "\n", encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> Record:
        """Reads peftkit.json.

        Raises:
            AdapterError: there is none, or it is damaged or of a later format.
        """
        file = folder / RECORD
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
            found = value.pop("format")
            if found != FORMAT:
                raise AdapterError(
                    f"`{file}` has format {found}; this peftkit reads {FORMAT}", "update peftkit"
                )
            head = value.pop("head")
            probes = tuple(Probe.from_json(probe) for probe in value.pop("probes"))
            value.pop("sha256", None)
            later: dict[str, Any] = {"tensors": {}, "peft_config": {}}  # older ones lack them
            numbers = value.pop("decision", {"numbers": {}})["numbers"].items()
            later["decision"] = Decision({name: tuple(found) for name, found in numbers})
            return Record(
                head=Head(**{**head, "labels": tuple(head["labels"])}),
                probes=probes,
                **{**later, **value},
            )
        except FileNotFoundError as error:
            raise AdapterError(
                f"`{folder}` is not an adapter of peftkit: it has no {RECORD}",
                "give a run folder (`runs/<name>`) or its `adapter` folder",
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AdapterError(f"`{file}` is damaged: {error}") from error


def config_digests(folder: Path) -> dict[str, str]:
    """Digest of every JSON file of an adapter but peftkit.json itself.

    Raises:
        AdapterError: one of them is not JSON.
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


def tensor_digests(folder: Path) -> dict[str, dict[str, Any]]:
    """File name -> tensor -> dtype, shape, digest of its bytes."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found[file.name] = {
            name: [stored.dtype, stored.shape, tensor_sha256(file, stored)]
            for name, stored in sorted(read_header(file).items())
        }
    return found


def peft_config(folder: Path) -> dict[str, Any]:
    """The content of adapter_config.json; empty if there is none."""
    file = folder / CONFIG
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def versions() -> dict[str, str]:
    """Of Python, peftkit and the packages that decide results."""
    found = {"python": sys.version.split()[0]}
    for package in ("peftkit", *PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def published_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe's JSON with every existing local path cut to its last part."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cut(item) for key, item in value.items()}
        if isinstance(value, list):
            return [cut(item) for item in value]
        if isinstance(value, str) and _is_local_path(value):
            return Path(value).name
        return value

    result: dict[str, Any] = cut(json.loads(recipe.model_dump_json()))
    return result


def _is_local_path(text: str) -> bool:
    if text.startswith(("/", "~", "./", "../")) or (len(text) > 2 and text[1:3] in (":\\", ":/")):
        return True
    try:
        return "/" in text and Path(text).exists()
    except OSError:
        return False


def tokenizer_sha256(tokenizer: Any) -> str:
    """Digest of the vocabulary, the special tokens and, where the tokenizer is a fast one, of all
    it does to a text: normalizing, splitting, wrapping in special tokens.
    """
    vocabulary = sorted(tokenizer.get_vocab().items())
    special = sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items())
    steps: dict[str, Any] = {}
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        steps = json.loads(backend.to_str())
        for changed_by_calls in ("truncation", "padding"):
            steps.pop(changed_by_calls, None)
    return hashlib.sha256(json.dumps([vocabulary, special, steps]).encode()).hexdigest()


def chat_template_sha256(tokenizer: Any) -> str:
    """Digest of the chat template; empty if there is none."""
    template = getattr(tokenizer, "chat_template", None)
    return hashlib.sha256(json.dumps(template).encode()).hexdigest() if template else ""
