"""Stage 1 of `peftkit verify`: checks the bytes of an adapter folder.

Uses only the standard library: torch, PEFT and template engines see a folder only after it has
passed. Opens no files outside the folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from peftkit.adapters.folders import adapter_in, user_path
from peftkit.adapters.inspection.adapterhub_format import HEAD_CONFIG, describe, wrong_adapter
from peftkit.adapters.inspection.digests import RECORD, compare_with_record
from peftkit.adapters.inspection.findings import Findings
from peftkit.adapters.inspection.hazards import leads_elsewhere, wrong_settings, wrong_template
from peftkit.adapters.inspection.inspected import Inspected
from peftkit.adapters.inspection.other_libraries import no_peft_adapter
from peftkit.adapters.inspection.settings import (
    OPTION,
    about_missing,
    early_fields,
    missing_settings,
    with_settings,
)
from peftkit.adapters.inspection.weight_files import (
    PICKLES,
    check_pickles,
    check_weights,
    size_of,
)
from peftkit.bases.stand_ins import encoding_of, stand_in
from peftkit.errors import AdapterError, RecipeError
from peftkit.methods.changed_bases import changed_base
from peftkit.methods.peft.adapter_config import CONFIG, AdapterConfig
from peftkit.methods.peft.field_types import wrong_types
from peftkit.parts.json_object import JsonObject
from peftkit.parts.json_values import unrepeated
from peftkit.wording import plural

LARGEST_JSON = 64 * 2**20
"""Largest JSON file that is read, in bytes; a large tokenizer.json has 20 million."""
DAMAGED = (
    OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError,
    RecursionError, RuntimeError,
)  # fmt: skip
"""Exception types that reading damaged or hostile content can raise."""


def inspect(path: str, settings: Mapping[str, object] | None = None) -> Inspected:
    """Checks the bytes of an adapter.

    Args:
        path: a run folder or an adapter folder.
        settings: values of fields missing in adapter_config.json.

    Raises:
        AdapterError: the folder holds no adapter.
        RecipeError: `settings` has a field that the adapter's type lacks, or contradicts the
            adapter_config.json.
    """
    folder = adapter_in(user_path(path))
    inspected = Inspected(folder, Findings(), user_settings=settings or {})
    for check in (
        _check_files,
        _check_settings,
        check_pickles,
        _check_templates,
        check_weights,
        compare_with_record,
    ):
        try:
            check(inspected)
        except DAMAGED as error:
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            inspected.findings.wrong(
                "files", f"they cannot be read: {reason}", "", "copy them again"
            )
        except AdapterError as error:
            inspected.findings.wrong("settings", error.message, "", error.hint)
        if inspected.problems_of("files") or not inspected.findings.is_adapter:
            break  # opens no further files
    return inspected


def _check_files(inspected: Inspected) -> None:
    files = list(inspected.folder.rglob("*"))
    kinds = (*PICKLES, ".safetensors", ".json", ".jinja")
    root = os.path.realpath(inspected.folder)
    allowed = [root]
    if inspected.folder.resolve().parent.name == "snapshots":  # the Hub's cache links to blobs
        allowed.append(str(inspected.folder.resolve().parents[1] / "blobs"))
    wrong = [
        f"`{file.name}` links outside the folder"
        for file in files
        if not os.path.realpath(file).startswith(tuple(f"{place}{os.sep}" for place in allowed))
    ]
    wrong += [
        f"`{file.name}` is no file"
        for file in files
        if not (file.is_file() or (file.is_dir() and file.suffix not in kinds))
    ]
    inspected.findings.judge(
        "files",
        wrong,
        _size_summary(files),
        "an adapter consists of regular files in its own folder",
        "copy the folder again, with its files",
    )


def _size_summary(files: list[Path]) -> str:
    sizes = [file.stat().st_size for file in files if file.is_file()]
    return f"{plural(len(sizes), 'file')}, {size_of(sum(sizes))}"


def _read_json(inspected: Inspected, name: str) -> JsonObject | None:
    """The JSON object in a file; None if the file is missing or unreadable.

    An unreadable file is recorded as a problem.
    """
    file = inspected.folder / name
    if not file.is_file():
        return None
    if instead := stand_in(file):
        inspected.findings.wrong("settings", f"`{name}` {instead.what}", "", instead.advice)
        return None
    try:
        if file.stat().st_size > LARGEST_JSON:
            raise ValueError(f"it has {file.stat().st_size:,} bytes; the limit is {LARGEST_JSON:,}")
        value = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=unrepeated)
        if not isinstance(value, dict):
            raise ValueError(f"its JSON is of type {type(value).__name__}, not an object")
    except (ValueError, RecursionError, OSError) as error:
        encoding = encoding_of(file)
        problem = f"is {encoding}, not UTF-8" if encoding else f"cannot be read: {error}"
        advice = "save it as UTF-8" if encoding else "copy or download it again"
        inspected.findings.wrong("settings", f"`{name}` {problem}", "", advice)
        return None
    return JsonObject(value, name)


def _check_settings(inspected: Inspected) -> None:
    inspected.record = _read_json(inspected, RECORD)
    config = _read_json(inspected, CONFIG)
    inspected.config = None if config is None else AdapterConfig(config.content)
    base = inspected.record.table("recipe").table("base") if inspected.record is not None else {}
    if leads_elsewhere(str(name := base.get("name_or_path"))):
        message = f"{RECORD} names the base {name!r}"
        inspected.findings.wrong("settings", message, "the path leads elsewhere")
    _complete(inspected)
    config = inspected.config
    if config is None:
        return
    if inspected.from_adapterhub:
        inspected.head = _read_json(inspected, HEAD_CONFIG)
        inspected.findings.judge(
            "settings",
            wrong_adapter(config),
            f"AdapterHub: {describe(config)}",
            "peftkit loads only the AdapterHub adapters that it can compute exactly",
            "load it with the `adapters` library, which wrote it",
        )
    elif config.get("peft_type") is None and inspected.record is None:
        inspected.findings.is_adapter = False
        inspected.findings.wrong("settings", *no_peft_adapter(config, inspected.folder))
    else:
        _judge_settings(inspected, config)


def _complete(inspected: Inspected) -> None:
    """Adds the user's settings to the content of adapter_config.json.

    Raises:
        RecipeError: the settings do not apply to this adapter.
    """
    if not inspected.user_settings:
        return
    if inspected.record is not None or inspected.from_adapterhub:
        writer = "AdapterHub's library" if inspected.from_adapterhub else "peftkit"
        raise RecipeError(
            f"`{OPTION}` is only for adapters saved by PEFT; {writer} saved "
            f"`{inspected.folder}` with all its settings",
            "leave the option out",
        )
    if inspected.config is None:  # `_read_json` has recorded the problem
        return
    config, inspected.config = (
        inspected.config,
        with_settings(inspected.config, inspected.user_settings),
    )
    for name, value in inspected.user_settings.items():
        if config.get(name) is None:
            inspected.findings.note(
                "settings",
                f"`{name}` is {str(value)[:60]}, as `{OPTION}` gives it",
                f"{CONFIG} lacks it; whether it is the value used in training cannot be checked",
            )


def _judge_settings(inspected: Inspected, config: AdapterConfig) -> None:
    """Records problems and notes on the settings of a PEFT adapter."""
    wrong = list(wrong_settings(config))
    kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    if not isinstance(kind, str):
        wrong.append(f"`peft_type` is {kind!r}")
    if not isinstance(task := config.get("task_type") or "", str):
        wrong.append(f"`task_type` is {task!r}")
    if base is not None and (not isinstance(base, str) or leads_elsewhere(base)):
        wrong.append(f"`base_model_name_or_path` is {base!r}, a path that leads elsewhere")
    findings: list[tuple[bool, str, str, str]] = []
    if inspected.record is None:
        findings += [(True, *about_missing(config, name)) for name in missing_settings(config)]
        findings += [(True, *wrong_type) for wrong_type in wrong_types(config)]
        findings += early_fields(config)
    if changed := changed_base(config):
        message, advice = changed
        findings.append((True, message, "PEFT may not rebuild the same base", advice))
    if wrong or not any(changes for changes, *_ in findings):
        inspected.findings.judge(
            "settings",
            wrong,
            f"{kind}" + (f", r={rank}" if (rank := config.get("r")) else ""),
            "PEFT would use it",
            "do not load it; ask whoever published it",
        )
    for changes, message, meaning, advice in findings:
        add = inspected.findings.wrong if changes else inspected.findings.note
        add("settings", message, meaning, advice)


def _check_templates(inspected: Inspected) -> None:
    texts: list[object] = []
    for file in (*inspected.folder.glob("*.jinja"), *inspected.folder.glob("chat_template.json")):
        if file.stat().st_size > LARGEST_JSON:
            raise ValueError(f"`{file.name}` is too large")
        texts.append(file.read_text("utf-8", "replace"))
    tokenizer = _read_json(inspected, "tokenizer_config.json")
    template = tokenizer.get("chat_template") if tokenizer is not None else None
    templates = template if isinstance(template, list) else [{"template": template}]
    texts += [t["template"] for t in templates if isinstance(t, dict) and t.get("template")]
    wrong = [f"the chat template: {why}" for text in texts for why in wrong_template(str(text))]
    if inspected.record is None:  # loading then uses the base's template
        for problem in wrong:
            inspected.findings.note("template", problem, "it is not used; the base's is")
    elif texts:
        inspected.findings.judge(
            "template",
            wrong,
            "a chat template without long loops",
            "rendering a prompt could take forever",
            "replace it with the base's template, or remove it",
        )
