"""Stage 1 of `peftkit verify`: what can be told of an adapter folder from its bytes.

The standard library only, so that nothing of a hostile folder reaches torch, PEFT or a template
engine before it has passed; no file but those of the folder is opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftkit.adapters.findings import Findings
from peftkit.adapters.hazards import wrong_settings, wrong_template
from peftkit.adapters.headers import Stored, read_header
from peftkit.errors import AdapterError, did_you_mean, quoted
from peftkit.packaged import sha256_of

RECORD = "peftkit.json"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MODEL_CONFIG = "config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
LARGEST_JSON = 64 * 2**20
"""Bytes of a JSON file; a large tokenizer.json has 20 million."""
HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
DAMAGED = (
    OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError,
    RecursionError, RuntimeError,
)  # fmt: skip
"""What damaged or hostile content raises where it is read."""
CONVERT = (
    'convert it where nothing can be lost: python -c "import torch; from safetensors.torch import '
    "save_file; save_file({{k: v.contiguous() for k, v in torch.load('{0}', weights_only=True)"
    ".items()}}, '{1}.safetensors')\""
)


@dataclass
class Inspected:
    """An adapter folder whose bytes were looked at."""

    folder: Path
    findings: Findings
    record: dict[str, Any] | None = None
    """peftkit.json; None for an adapter that peftkit did not save."""
    config: dict[str, Any] | None = None
    """adapter_config.json; None for methods that are peftkit's own."""
    tensors: dict[str, dict[str, Stored]] = field(default_factory=dict)
    """File name -> its tensors."""

    @property
    def passed(self) -> bool:
        """Whether it may be loaded."""
        return not self.findings.problems

    def problems_of(self, check: str) -> bool:
        """Whether something is wrong by one of the checks."""
        return any(problem.check == check for problem in self.findings.problems)

    def raise_if_wrong(self) -> None:
        """Raises AdapterError with the first thing that is wrong."""
        for problem in self.findings.problems:
            raise AdapterError(
                f"the adapter in `{self.folder}` cannot be trusted: {problem.found}",
                problem.advice or f"`peftkit verify {self.folder}` tells more",
            )


def inspect(path: str) -> Inspected:
    """Looks at the adapter of a run folder, or at an adapter folder itself.

    Raises:
        AdapterError: it is none.
    """
    folder = adapter_in(Path(path).expanduser())
    found = Inspected(folder, Findings())
    for look in (
        _look_at_files,
        _look_at_settings,
        _look_at_templates,
        _look_at_weights,
        _compare_with_record,
    ):
        try:
            look(found)
        except DAMAGED as error:  # of kinds that no tool writes
            what = f"{type(error).__name__}: {str(error)[:200]}"
            found.findings.wrong("files", f"they cannot be read: {what}", "", "copy them again")
        if found.problems_of("files"):
            break  # nothing more is opened
    return found


def adapter_in(path: Path) -> Path:
    """The adapter in a run folder, or the folder itself.

    Raises:
        AdapterError: it holds none.
    """
    folder = path / "adapter" if (path / "adapter").is_dir() else path
    if not folder.is_dir():
        siblings = path.parent.iterdir() if path.parent.is_dir() else ()
        raise AdapterError(
            f"no folder `{path}`", did_you_mean(path.name, (sibling.name for sibling in siblings))
        )
    if (folder / RECORD).is_file() or (folder / CONFIG).is_file():
        return folder
    if (path / "adapter.unchecked").is_dir():
        raise AdapterError(
            f"the adapter in `{path}` did not pass its check when it was saved, or the run was "
            "stopped before",
            f"to look at it all the same, give `{path / 'adapter.unchecked'}`",
        )
    raise AdapterError(
        f"`{folder}` holds no adapter: neither {CONFIG} nor {RECORD}",
        "give a run folder (`runs/<name>`), or a folder that PEFT has saved",
    )


def _look_at_files(found: Inspected) -> None:
    files = list(found.folder.rglob("*"))
    kinds = (*PICKLES, ".safetensors", ".json", ".jinja")
    root = os.path.realpath(found.folder)
    allowed = [root]
    if found.folder.resolve().parent.name == "snapshots":  # the Hub's cache links to its blobs
        allowed.append(str(found.folder.resolve().parents[1] / "blobs"))
    wrong = [
        f"`{file.name}` is a link to what lies outside of the folder"
        for file in files
        if not os.path.realpath(file).startswith(tuple(f"{place}{os.sep}" for place in allowed))
    ]
    wrong += [
        f"`{file.name}` is no file"
        for file in files
        if not (file.is_file() or (file.is_dir() and file.suffix not in kinds))
    ]
    found.findings.judge(
        "files",
        wrong,
        f"{sum(file.is_file() for file in files)} files, {_size(files)}",
        "what lies elsewhere, or is no file, is no part of an adapter",
        "copy the folder again, with its files",
    )
    has_weights = (found.folder / WEIGHTS).is_file() or not (found.folder / CONFIG).is_file()
    for file in files:
        if file.suffix in PICKLES and file.is_file():
            (found.findings.note if has_weights else found.findings.wrong)(
                "pickle",
                f"`{file.name}` is a pickle" + (", and is not read" if has_weights else ""),
                "loading a pickle can run any program",
                "" if has_weights else CONVERT.format(file.name, file.stem),
            )


def _size(files: list[Path]) -> str:
    size = sum(file.stat().st_size for file in files if file.is_file())
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _read_json(found: Inspected, name: str) -> dict[str, Any] | None:
    """A JSON object of the folder; None if it is not there, or is none."""
    file = found.folder / name
    if not file.is_file():
        return None
    try:
        if file.stat().st_size > LARGEST_JSON:
            raise ValueError(f"{file.stat().st_size:,} bytes are too many")
        value = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"it holds no object but {type(value).__name__}")
    except (ValueError, RecursionError, OSError) as error:
        found.findings.wrong(
            "settings", f"`{name}` cannot be read: {error}", "", "copy or download it again"
        )
        return None
    return value


def _look_at_settings(found: Inspected) -> None:
    found.record = _read_json(found, RECORD)
    config = found.config = _read_json(found, CONFIG)
    if config is None:
        return
    wrong = list(wrong_settings(config))
    kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    if not isinstance(kind, str):
        wrong.append(f"`peft_type` is {kind!r}")
    if not isinstance(config.get("task_type") or "", str):
        wrong.append(f"`task_type` is {config['task_type']!r}")
    if base is not None and (not isinstance(base, str) or _leads_elsewhere(base)):
        wrong.append(f"`base_model_name_or_path` is {base!r}, which leads out of where it lies")
    found.findings.judge(
        "settings",
        wrong,
        f"{kind}" + (f", r={config['r']}" if config.get("r") else ""),
        "PEFT would act on it",
        "do not load it; ask whoever published it",
    )


def _leads_elsewhere(base: str) -> bool:
    return ".." in Path(base).parts or not base.isprintable()


def _look_at_templates(found: Inspected) -> None:
    texts = []
    for file in (*found.folder.glob("*.jinja"), *found.folder.glob("chat_template.json")):
        if file.stat().st_size > LARGEST_JSON:
            raise ValueError(f"`{file.name}` is too large")
        texts.append(file.read_text("utf-8", "replace"))
    tokenizer = _read_json(found, "tokenizer_config.json") or {}
    template = tokenizer.get("chat_template")
    named = template if isinstance(template, list) else [{"template": template}]
    texts += [t["template"] for t in named if isinstance(t, dict) and t.get("template")]
    wrong = [f"the chat template: {why}" for text in texts for why in wrong_template(str(text))]
    if found.record is None:  # the base's own is used then
        for told in wrong:
            found.findings.note("template", told, "it is not used; the base's own is")
    elif texts:
        found.findings.judge(
            "template",
            wrong,
            "a chat template without long loops",
            "writing a prompt could take for ever",
            "take the base's own template, or remove it",
        )


def _look_at_weights(found: Inspected) -> None:
    files = sorted(found.folder.glob("*.safetensors"))
    for file in files:
        try:
            found.tensors[file.name] = read_header(file)
        except AdapterError as error:
            found.findings.wrong("weights", error.message, "", error.hint)
    if found.config is not None and not (found.folder / WEIGHTS).is_file():
        if not found.problems_of("pickle"):
            found.findings.wrong("weights", f"no .safetensors file `{WEIGHTS}`", "PEFT reads that")
    elif not files:
        found.findings.wrong("weights", "no .safetensors file", "there is nothing to load")
    elif len(found.tensors) == len(files):
        count = sum(len(tensors) for tensors in found.tensors.values())
        numbers = sum(
            (t.end - t.begin) for tensors in found.tensors.values() for t in tensors.values()
        )
        found.findings.ok(
            "weights", f"{count} tensors, {numbers / 1e6:.1f} MB, without gap or overlap"
        )


def _compare_with_record(found: Inspected) -> None:
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
        weights, configs = dict(record["weights"]), dict(record["configs"])
        tensors: dict[str, Any] = dict(record.get("tensors") or {})
        settings: dict[str, Any] = dict(record.get("peft_config") or {})
    except (KeyError, TypeError, ValueError) as error:
        found.findings.wrong("record", f"{RECORD} is damaged: {error!r}", "", "copy it again")
        return
    if names := [n for n in (*weights, *configs) if Path(n).name != n or not n.isprintable()]:
        found.findings.wrong(
            "record", f"{RECORD} names files elsewhere: {quoted(map(repr, names))}"
        )
        return
    wrong: list[str] = []
    if record.get("sha256", digest := record_sha256(record)) != digest:
        wrong.append(f"{RECORD} was edited after it was saved")
    for name, digest in weights.items():
        if name in found.tensors and name in tensors:
            wrong += _different_tensors(found, name, tensors[name])
        if not wrong and not (found.folder / name).is_file():
            wrong.append(f"`{name}` is missing")
        elif not wrong and sha256_of(found.folder / name) != digest:
            wrong.append(f"`{name}` is not the file that was saved")
    if found.config is not None:
        wrong += _different_settings(found.config, settings)
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
        f"{len(weights) + len(configs)} files are those that were saved",
        "it is not the adapter that was trained",
        "copy or download the adapter again",
    )


def _different_tensors(found: Inspected, name: str, saved: dict[str, Any]) -> list[str]:
    """In words, how the tensors of a file differ from those that were saved."""
    here, wrong = found.tensors[name], []
    gone, added = saved.keys() - here.keys(), here.keys() - saved.keys()
    for tensor in sorted(gone):
        digest = saved[tensor][2]
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
        if (stored.dtype, list(stored.shape)) != (dtype, list(shape)):
            wrong.append(
                f"the tensor `{tensor}` is {stored.dtype} of shape {list(stored.shape)}, and was "
                f"{dtype} of shape {list(shape)}"
            )
        elif tensor_sha256(found.folder / name, stored) != digest:
            wrong.append(f"the tensor `{tensor}` holds {_values(found.folder / name, stored)}")
    return wrong[:5] + ([f"{len(wrong) - 5} tensors more differ"] if len(wrong) > 5 else [])


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


def _different_settings(config: dict[str, Any], saved: dict[str, Any]) -> list[str]:
    if not saved:
        return []
    return [
        f"`{name}` in adapter_config.json is {config.get(name)!r}, and was {saved.get(name)!r}"
        for name in sorted(saved.keys() | config.keys())
        if config.get(name) != saved.get(name)
    ]


def _different_json(found: Inspected, name: str, digest: str) -> list[str]:
    file = found.folder / name
    if not file.is_file():
        return [f"`{name}` is missing"]
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        return [f"`{name}` is no JSON: {error}"]
    if json_sha256(content) != digest:
        return [f"`{name}` is not as it was saved"]
    return []


def record_sha256(record: dict[str, Any]) -> str:
    """Digest of what peftkit.json holds, but for the digest itself."""
    content = {name: value for name, value in record.items() if name != "sha256"}
    return json_sha256(content)


def json_sha256(content: Any) -> str:
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
