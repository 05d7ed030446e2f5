"""Stage 1 of `peftkit verify`: what can be told of an adapter folder from its bytes.

The standard library only, so that nothing of a hostile folder reaches torch, PEFT or a template
engine before it has passed; no file but those of the folder is opened.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftkit.adapters.adapterhub_format import (
    ADAPTER_WEIGHTS,
    FUSION_CONFIG,
    HEAD_CONFIG,
    SAME_AS,
    described,
    is_adapterhub,
    wrong_adapter,
)
from peftkit.adapters.digests import CONFIG, RECORD, compare_with_record
from peftkit.adapters.findings import Findings
from peftkit.adapters.hazards import leads_elsewhere, wrong_settings, wrong_template
from peftkit.adapters.headers import Stored, read_header
from peftkit.errors import AdapterError, did_you_mean, quoted
from peftkit.methods.changed_bases import changed_base
from peftkit.terminal import plural

WEIGHTS = "adapter_model.safetensors"
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
    'convert it, in its folder: python -c "import torch; from safetensors.torch import save_file; '
    "save_file({{k: v.clone().contiguous() for k, v in torch.load('{0}', weights_only=True)"
    ".items()}}, '{1}.safetensors')\""
)
"""torch builds the pickle's tensors and nothing else; `clone`, since some share their memory."""
PLAIN_NAME = re.compile(r"[\w.-]+", re.ASCII)
"""File names that may stand in a command."""


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

    head: dict[str, Any] | None = None
    """head_config.json of an AdapterHub adapter that was saved with its head."""

    @property
    def from_adapterhub(self) -> bool:
        """Whether AdapterHub's library wrote it."""
        return self.record is None and self.config is not None and is_adapterhub(self.config)

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
    folder = adapter_in(user_path(path))
    found = Inspected(folder, Findings())
    for look in (
        _look_at_files,
        _look_at_settings,
        _look_at_pickles,
        _look_at_templates,
        _look_at_weights,
        compare_with_record,
    ):
        try:
            look(found)
        except DAMAGED as error:  # of kinds that no tool writes
            what = f"{type(error).__name__}: {str(error)[:200]}"
            found.findings.wrong("files", f"they cannot be read: {what}", "", "copy them again")
        if found.problems_of("files"):
            break  # nothing more is opened
    return found


def user_path(path: str) -> Path:
    """A path as a person gives it.

    Raises:
        AdapterError: nothing can be looked at there.
    """
    try:
        expanded = Path(path).expanduser()
        for file in (expanded / RECORD, expanded / "adapter" / RECORD):
            file.is_file()
    except (RuntimeError, OSError, ValueError) as error:  # `~somebody`, too long, not allowed
        told = getattr(error, "strerror", None) or error
        raise AdapterError(
            f"`{path[:100]}` cannot be looked at: {told}", "give a run folder (`runs/<name>`)"
        ) from error
    return expanded


def adapter_in(path: Path) -> Path:
    """The adapter in a run folder, or the folder itself.

    Raises:
        AdapterError: it holds none.
    """
    folder = path / "adapter" if (path / "adapter").is_dir() else path
    if folder.is_file():
        raise AdapterError(f"`{path}` is a file", "give the run's or the adapter's folder")
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
    if (folder / "merge_report.json").is_file():
        raise AdapterError(
            f"`{folder}` is a merged model, with no adapter left in it",
            "transformers loads it by itself; its README.md has the lines",
        )
    if (folder / FUSION_CONFIG).is_file():
        raise AdapterError(
            f"`{folder}` holds a fusion of AdapterHub's, which mixes several adapters",
            "peftkit loads single adapters; use the `adapters` library, which wrote it",
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
        f"{plural(sum(file.is_file() for file in files), 'file')}, {_size(files)}",
        "what lies elsewhere, or is no file, is no part of an adapter",
        "copy the folder again, with its files",
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
    named = ((found.record or {}).get("recipe") or {}).get("base") or {}
    if leads_elsewhere(str(named.get("name_or_path"))):
        told = f"{RECORD} names the base {named['name_or_path']!r}"
        found.findings.wrong("settings", told, "which leads out of where it lies")
    if config is None:
        return
    if found.from_adapterhub:
        found.head = _read_json(found, HEAD_CONFIG)
        found.findings.judge(
            "settings",
            wrong_adapter(config),
            f"AdapterHub: {described(config)}",
            "peftkit computes the bottleneck adapters of AdapterHub's that it can compute exactly",
            "load it with the `adapters` library, which wrote it",
        )
        return
    wrong = list(wrong_settings(config))
    kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    if not isinstance(kind, str):
        wrong.append(f"`peft_type` is {kind!r}")
    if not isinstance(config.get("task_type") or "", str):
        wrong.append(f"`task_type` is {config['task_type']!r}")
    if base is not None and (not isinstance(base, str) or leads_elsewhere(base)):
        wrong.append(f"`base_model_name_or_path` is {base!r}, which leads out of where it lies")
    if changed := changed_base(config):
        found.findings.wrong(
            "settings", changed[0], "whether PEFT makes that base again is not certain", changed[1]
        )
        if not wrong:
            return
    found.findings.judge(
        "settings",
        wrong,
        f"{kind}" + (f", r={config['r']}" if config.get("r") else ""),
        "PEFT would act on it",
        "do not load it; ask whoever published it",
    )


def _look_at_pickles(found: Inspected) -> None:
    """Pickles are no harm beside the safetensors file that holds the same."""
    for file in sorted(found.folder.rglob("*")):
        if file.suffix not in PICKLES or not file.is_file():
            continue
        twins: tuple[str, ...] = (WEIGHTS,)
        if found.from_adapterhub:
            twins = SAME_AS.get(file.name, (f"{file.stem}.safetensors",))
        read = found.config is None or any((found.folder / name).is_file() for name in twins)
        plain = PLAIN_NAME.fullmatch(file.name)
        (found.findings.note if read else found.findings.wrong)(
            "pickle",
            f"`{file.name}` is a pickle" + (", and is not read" if read else ""),
            "loading a pickle can run any program",
            CONVERT.format(file.name, file.stem) if plain and not read else "",
        )


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
    needed = ADAPTER_WEIGHTS if found.from_adapterhub else (WEIGHTS,)
    if found.config is not None and not any((found.folder / name).is_file() for name in needed):
        if not found.problems_of("pickle"):
            found.findings.wrong(
                "weights",
                f"no .safetensors file {quoted(needed)}",
                "the tensors are read from there",
                "if it was published as a pickle (.bin), download that and `peftkit verify` its "
                "folder, which says how to convert it",
            )
    elif not files:
        found.findings.wrong("weights", "no .safetensors file", "there is nothing to load")
    elif len(found.tensors) == len(files):
        count = sum(len(tensors) for tensors in found.tensors.values())
        numbers = sum(
            (t.end - t.begin) for tensors in found.tensors.values() for t in tensors.values()
        )
        found.findings.ok(
            "weights", f"{plural(count, 'tensor')}, {numbers / 1e6:.1f} MB, without gap or overlap"
        )
