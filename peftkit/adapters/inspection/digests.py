"""Stage 1 of `peftkit verify`, where peftkit saved the adapter: its files, tensors and settings
beside what peftkit.json says of them.

The standard library only, as in `inspecting`.
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
"""The tensors beside adapter_config.json."""


class SavedTensor(NamedTuple):
    """A tensor as peftkit.json records it."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str
    """Of its bytes."""


@dataclass(frozen=True)
class _Saved:
    """What peftkit.json says of the files beside it."""

    weights: Mapping[str, object]
    """File name -> SHA-256, as `configs`."""
    configs: Mapping[str, object]
    tensors: dict[str, dict[str, SavedTensor]]
    """File name -> tensor."""
    peft_config: AdapterConfig

    @classmethod
    def of(cls, record: JsonObject) -> _Saved:
        """Raises AdapterError if a part is missing or of another type."""
        if missing := [name for name in ("weights", "configs") if record.get(name) is None]:
            raise AdapterError(f"it has no `{missing[0]}`")
        tensors = record.table("tensors")
        return cls(
            weights=record.table("weights"),
            configs=record.table("configs"),
            tensors={file: _saved_tensors(tensors.table(file)) for file in tensors},
            peft_config=AdapterConfig(record.table("peft_config").content),
        )


def _saved_tensors(saved: JsonObject) -> dict[str, SavedTensor]:
    found = {}
    for name in saved:
        match saved[name]:
            case [str(dtype), [*sizes], str(digest)]:
                shape = tuple(size for size in sizes if isinstance(size, int))
                found[name] = SavedTensor(dtype, shape, digest)
            case other:
                told = f"`{name}` is {str(other)[:60]}, not a dtype, a shape and a digest"
                raise AdapterError(told)
    return found


def compare_with_record(found: Inspected) -> None:
    """Files, tensors and settings beside what peftkit.json says of them."""
    if (record := found.record) is None:
        if found.passed:
            found.findings.note(
                "record",
                f"no {RECORD}",
                "another tool saved it: what it was trained on and what it answered is not known",
            )
        return
    try:
        saved = _Saved.of(record)
    except AdapterError as error:
        found.findings.wrong("record", f"{RECORD} is damaged: {error.message}", "", "copy it again")
        return
    weights, configs = saved.weights, saved.configs
    if names := [n for n in (*weights, *configs) if Path(n).name != n or not n.isprintable()]:
        found.findings.wrong(
            "record", f"{RECORD} names files elsewhere: {quoted(map(repr, names))}"
        )
        return
    wrong: list[str] = []
    if record.get("sha256", own := record_sha256(record)) != own:
        wrong.append(f"{RECORD} was edited after it was saved")
    for name, digest in weights.items():
        if name in found.tensors and name in saved.tensors:
            wrong += _different_tensors(found, name, saved.tensors[name])
        if not wrong and not (found.folder / name).is_file():
            wrong.append(f"`{name}` is missing")
        elif not wrong and sha256_of(found.folder / name) != digest:
            wrong.append(f"`{name}` is not the file that was saved")
    if found.config is not None:
        wrong += _different_settings(found.config, saved.peft_config)
    for name, digest in configs.items():
        if name != CONFIG or not any("adapter_config" in text for text in wrong):
            wrong += _different_json(found, name, digest)
    wrong += [
        f"`{file.name}` is new since it was saved"
        for file in sorted(found.folder.iterdir())
        if file.suffix in (".json", ".safetensors")
        and file.name not in (*configs, *weights, RECORD)
    ]
    found.findings.judge(
        "digests",
        wrong,
        _told_same(len(weights) + len(configs)),
        "it is not the adapter that was trained",
        "copy or download the adapter again",
    )


def _told_same(count: int) -> str:
    those = "is the one that was saved" if count == 1 else "are those that were saved"
    return f"{plural(count, 'file')} {those}"


def _different_tensors(found: Inspected, name: str, saved: Mapping[str, SavedTensor]) -> list[str]:
    """In words, how the tensors of a file differ from those that were saved."""
    here, wrong = found.tensors[name], []
    gone, added = saved.keys() - here.keys(), here.keys() - saved.keys()
    for tensor in sorted(gone):
        digest = saved[tensor].sha256
        again = [n for n in sorted(added) if tensor_sha256(found.folder / name, here[n]) == digest]
        added -= set(again)
        wrong.append(
            f"the tensor `{tensor}` is missing"
            + (f"; `{again[0]}` has its values" if again else "")
        )
    wrong += [f"the tensor `{tensor}` was not there when it was saved" for tensor in sorted(added)]
    for tensor in sorted(saved.keys() & here.keys()):
        dtype, shape, digest = saved[tensor]
        stored = here[tensor]
        if (stored.dtype, stored.shape) != (dtype, shape):
            wrong.append(
                f"the tensor `{tensor}` is {stored.dtype} of shape {list(stored.shape)}, and was "
                f"{dtype} of shape {list(shape)}"
            )
        elif tensor_sha256(found.folder / name, stored) != digest:
            wrong.append(f"the tensor `{tensor}` holds {_values(found.folder / name, stored)}")
    return wrong[:5] + (
        [f"{plural(len(wrong) - 5, 'more tensor')} differ"] if len(wrong) > 5 else []
    )


def _values(file: Path, stored: Stored) -> str:
    """What other values a tensor holds, as far as its bytes tell at a glance."""
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


def _different_json(found: Inspected, name: str, digest: object) -> list[str]:
    file = found.folder / name
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
    """Digest of what peftkit.json holds, but for the digest itself."""
    content = {name: value for name, value in record.items() if name != "sha256"}
    return json_sha256(content)


def json_sha256(content: object) -> str:
    """Digest of what a JSON file holds, whatever its formatting."""
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
