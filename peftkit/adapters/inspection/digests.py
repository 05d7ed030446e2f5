"""Compares files, tensors and settings with peftkit.json, in stage 1 of `peftkit verify`.

Uses only the standard library, as `inspecting` does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from peftkit.adapters.inspection.headers import Stored
from peftkit.bases.stand_ins import stand_in
from peftkit.data.packaged import sha256_of
from peftkit.errors import AdapterError, quoted
from peftkit.methods.peft.adapter_config import CONFIG, AdapterConfig
from peftkit.parts.json_object import JsonObject
from peftkit.wording import plural

if TYPE_CHECKING:
    from peftkit.adapters.inspection.inspected import Inspected

RECORD = "peftkit.json"
WEIGHTS = "adapter_model.safetensors"
"""PEFT's name of the file with an adapter's tensors."""


class SavedTensor(NamedTuple):
    """A tensor as peftkit.json records it."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str
    """Digest of the tensor's bytes."""


@dataclass(frozen=True)
class _Saved:
    """The part of peftkit.json that describes the other files of the adapter."""

    weights: Mapping[str, object]
    """Name of a weight file -> its SHA-256; `configs` has the digests of the JSON files."""
    configs: Mapping[str, object]
    tensors: dict[str, dict[str, SavedTensor]]
    """Name of a weight file -> tensor name -> recorded tensor."""
    peft_config: AdapterConfig

    @classmethod
    def of(cls, record: JsonObject) -> _Saved:
        """Reads the content of peftkit.json.

        Raises:
            AdapterError: a part is missing or has the wrong type.
        """
        if missing := [name for name in ("weights", "configs") if record.get(name) is None]:
            raise AdapterError(f"`{missing[0]}` is missing")
        tensors = record.table("tensors")
        return cls(
            weights=record.table("weights"),
            configs=record.table("configs"),
            tensors={file: _saved_tensors(tensors.table(file)) for file in tensors},
            peft_config=AdapterConfig(record.table("peft_config").content),
        )


def _saved_tensors(saved: JsonObject) -> dict[str, SavedTensor]:
    tensors = {}
    for name in saved:
        match saved[name]:
            case [str(dtype), [*sizes], str(digest)]:
                shape = tuple(size for size in sizes if isinstance(size, int))
                tensors[name] = SavedTensor(dtype, shape, digest)
            case other:
                raise AdapterError(
                    f"`{name}` is {str(other)[:60]}, not a dtype, a shape and a digest"
                )
    return tensors


def compare_with_record(inspected: Inspected) -> None:
    """Compares files, tensors and settings with peftkit.json, and records the findings."""
    if (record := inspected.record) is None:
        if inspected.passed:
            inspected.findings.note(
                "record",
                f"no {RECORD}",
                "another program saved it: its base of training and its answers are not recorded",
            )
        return
    try:
        saved = _Saved.of(record)
    except AdapterError as error:
        inspected.findings.wrong(
            "record", f"{RECORD} is damaged: {error.message}", "", "copy it again"
        )
        return
    weights, configs = saved.weights, saved.configs
    if names := [n for n in (*weights, *configs) if Path(n).name != n or not n.isprintable()]:
        problem = f"{RECORD} names files elsewhere: {quoted(map(repr, names))}"
        inspected.findings.wrong("record", problem)
        return
    wrong: list[str] = []
    if record.get("sha256", computed := record_sha256(record)) != computed:
        wrong.append(f"{RECORD} was edited after it was saved")
    for name, digest in weights.items():
        if name in inspected.tensors and name in saved.tensors:
            wrong += _different_tensors(inspected, name, saved.tensors[name])
        if not wrong and not (inspected.folder / name).is_file():
            wrong.append(f"`{name}` is missing")
        elif not wrong and sha256_of(inspected.folder / name) != digest:
            wrong.append(f"`{name}` is not the file that was saved")
    if inspected.config is not None:
        wrong += _different_settings(inspected.config, saved.peft_config)
    for name, digest in configs.items():
        if name != CONFIG or not any("adapter_config" in text for text in wrong):
            wrong += _different_json(inspected, name, digest)
    wrong += [
        f"`{file.name}` is new since it was saved"
        for file in sorted(inspected.folder.iterdir())
        if file.suffix in (".json", ".safetensors")
        and file.name not in (*configs, *weights, RECORD)
    ]
    inspected.findings.judge(
        "digests",
        wrong,
        _unchanged_files(len(weights) + len(configs)),
        "it is not the adapter that was trained",
        "copy or download the adapter again",
    )


def _unchanged_files(count: int) -> str:
    same = "is the one that was saved" if count == 1 else "are those that were saved"
    return f"{plural(count, 'file')} {same}"


def _different_tensors(
    inspected: Inspected, name: str, saved: Mapping[str, SavedTensor]
) -> list[str]:
    """Messages on the first five differences between a file's tensors and the recorded tensors."""
    tensors, wrong = inspected.tensors[name], []
    gone, added = saved.keys() - tensors.keys(), tensors.keys() - saved.keys()
    for tensor in sorted(gone):
        digest = saved[tensor].sha256
        file = inspected.folder / name
        renamed = [n for n in sorted(added) if tensor_sha256(file, tensors[n]) == digest]
        added -= set(renamed)
        wrong.append(
            f"the tensor `{tensor}` is missing"
            + (f"; `{renamed[0]}` has its values" if renamed else "")
        )
    wrong += [f"the tensor `{tensor}` was not there when it was saved" for tensor in sorted(added)]
    for tensor in sorted(saved.keys() & tensors.keys()):
        dtype, shape, digest = saved[tensor]
        stored = tensors[tensor]
        if (stored.dtype, stored.shape) != (dtype, shape):
            wrong.append(
                f"the tensor `{tensor}` is {stored.dtype} of shape {list(stored.shape)}, and was "
                f"{dtype} of shape {list(shape)}"
            )
        elif tensor_sha256(inspected.folder / name, stored) != digest:
            wrong.append(f"the tensor `{tensor}` holds {_values(inspected.folder / name, stored)}")
    return wrong[:5] + (
        [f"{plural(len(wrong) - 5, 'more tensor')} differ"] if len(wrong) > 5 else []
    )


def _values(file: Path, stored: Stored) -> str:
    """Says in words what a changed tensor holds: zeros, non-finite numbers, or other values."""
    data = _bytes_of(file, stored)
    if not any(data):
        return "zeros, and did not"
    width = {"F32": 4, "F16": 2, "BF16": 2}.get(stored.dtype, 0)
    most = {"F32": b"\x80\x7f", "F16": b"\x00\x7c", "BF16": b"\x80\x7f"}.get(stored.dtype, b"")
    if width:  # the exponent's bits are all set in numbers that are not finite
        mask = int.from_bytes(most, "little")
        tops = zip(data[width - 2 :: width], data[width - 1 :: width], strict=True)
        if any((low | high << 8) & mask == mask for low, high in tops):
            return "numbers that are not finite, and did not"
    return "other values than were saved"


def _different_settings(config: AdapterConfig, saved: AdapterConfig) -> list[str]:
    if not saved:
        return []
    return [
        f"`{name}` in adapter_config.json is {config.get(name)!r}, and was {saved.get(name)!r}"
        for name in sorted(saved.keys() | config.keys())
        if config.get(name) != saved.get(name)
    ]


def _different_json(inspected: Inspected, name: str, digest: object) -> list[str]:
    file = inspected.folder / name
    if not file.is_file():
        return [f"`{name}` is missing"]
    if instead := stand_in(file):
        return [f"`{name}` {instead.what}"]
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        return [f"`{name}` is no JSON: {error}"]
    if json_sha256(content) != digest:
        return [f"`{name}` is not as it was saved"]
    return []


def record_sha256(record: Mapping[str, object]) -> str:
    """Digest of the content of peftkit.json without its field `sha256`."""
    content = {name: value for name, value in record.items() if name != "sha256"}
    return json_sha256(content)


def json_sha256(content: object) -> str:
    """Digest of a JSON file's content, independent of the file's formatting."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def tensor_sha256(file: Path, stored: Stored) -> str:
    """Digest of a tensor's bytes."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        opened.seek(stored.begin)
        left = stored.end - stored.begin
        while left and (piece := opened.read(min(left, 2**20))):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


def _bytes_of(file: Path, stored: Stored) -> bytes:
    with file.open("rb") as opened:
        opened.seek(stored.begin)
        return opened.read(stored.end - stored.begin)
