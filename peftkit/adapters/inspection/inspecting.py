"""Stage 1 of `peftkit verify`: what can be told of an adapter folder from its bytes.

The standard library only, so that nothing of a hostile folder reaches torch, PEFT or a template
engine before it has passed; no file but those of the folder is opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from peftkit.adapters.folders import adapter_in, user_path
from peftkit.adapters.inspection.adapterhub_format import HEAD_CONFIG, described, wrong_adapter
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
    look_at_pickles,
    look_at_weights,
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
"""Bytes of a JSON file; a large tokenizer.json has 20 million."""
DAMAGED = (
    OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError,
    RecursionError, RuntimeError,
)  # fmt: skip
"""What damaged or hostile content raises where it is read."""


def inspect(path: str, settings: Mapping[str, object] | None = None) -> Inspected:
    """Looks at the adapter of a run folder, or at an adapter folder itself.

    Args:
        settings: fields that its adapter_config.json lacks, and their values.

    Raises:
        AdapterError: it is none.
        RecipeError: the settings are none of the adapter's type, or not missing.
    """
    folder = adapter_in(user_path(path))
    found = Inspected(folder, Findings(), given=settings or {})
    for look in (
        _look_at_files,
        _look_at_settings,
        look_at_pickles,
        _look_at_templates,
        look_at_weights,
        compare_with_record,
    ):
        try:
            look(found)
        except DAMAGED as error:  # of kinds that no tool writes
            what = f"{type(error).__name__}: {str(error)[:200]}"
            found.findings.wrong("files", f"they cannot be read: {what}", "", "copy them again")
        except AdapterError as error:
            found.findings.wrong("settings", error.message, "", error.hint)
        if found.problems_of("files") or not found.findings.is_adapter:
            break  # nothing more is opened
    return found


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
        _told_size(files),
        "what lies elsewhere, or is no file, is no part of an adapter",
        "copy the folder again, with its files",
    )


def _told_size(files: list[Path]) -> str:
    sizes = [file.stat().st_size for file in files if file.is_file()]
    return f"{plural(len(sizes), 'file')}, {size_of(sum(sizes))}"


def _read_json(found: Inspected, name: str) -> JsonObject | None:
    """A JSON object of the folder; None if it is not there, or is none."""
    file = found.folder / name
    if not file.is_file():
        return None
    if instead := stand_in(file):
        found.findings.wrong("settings", f"`{name}` {instead.what}", "", instead.advice)
        return None
    try:
        if file.stat().st_size > LARGEST_JSON:
            raise ValueError(f"{file.stat().st_size:,} bytes are too many")
        value = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=unrepeated)
        if not isinstance(value, dict):
            raise ValueError(f"it holds no object but {type(value).__name__}")
    except (ValueError, RecursionError, OSError) as error:
        encoding = encoding_of(file)
        told = f"is {encoding}, not UTF-8" if encoding else f"cannot be read: {error}"
        advice = "save it as UTF-8" if encoding else "copy or download it again"
        found.findings.wrong("settings", f"`{name}` {told}", "", advice)
        return None
    return JsonObject(value, name)


def _look_at_settings(found: Inspected) -> None:
    found.record = _read_json(found, RECORD)
    config = _read_json(found, CONFIG)
    found.config = None if config is None else AdapterConfig(config.content)
    named = found.record.table("recipe").table("base") if found.record is not None else {}
    if leads_elsewhere(str(name := named.get("name_or_path"))):
        told = f"{RECORD} names the base {name!r}"
        found.findings.wrong("settings", told, "which leads out of where it lies")
    _complete(found)
    config = found.config
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
    elif config.get("peft_type") is None and found.record is None:
        found.findings.is_adapter = False
        found.findings.wrong("settings", *no_peft_adapter(config, found.folder))
    else:
        _judge_settings(found, config)


def _complete(found: Inspected) -> None:
    """Puts what was given for adapter_config.json into its content.

    Raises:
        RecipeError: it is not for this adapter.
    """
    if not found.given:
        return
    if found.record is not None or found.from_adapterhub:
        writer = "AdapterHub's library" if found.from_adapterhub else "peftkit"
        raise RecipeError(
            f"`{OPTION}` completes the settings of PEFT's adapters, and {writer} has saved the one "
            f"in `{found.folder}`, with all its settings",
            "leave it out",
        )
    if found.config is None:  # which is told already
        return
    config, found.config = found.config, with_settings(found.config, found.given)
    for name, value in found.given.items():
        if config.get(name) is None:
            found.findings.note(
                "settings",
                f"`{name}` is {str(value)[:60]}, as `{OPTION}` gives it",
                f"{CONFIG} does not say; whether it is that of the training cannot be told",
            )


def _judge_settings(found: Inspected, config: AdapterConfig) -> None:
    """What is wrong with the settings of an adapter of PEFT's, by themselves."""
    wrong = list(wrong_settings(config))
    kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    if not isinstance(kind, str):
        wrong.append(f"`peft_type` is {kind!r}")
    if not isinstance(task := config.get("task_type") or "", str):
        wrong.append(f"`task_type` is {task!r}")
    if base is not None and (not isinstance(base, str) or leads_elsewhere(base)):
        wrong.append(f"`base_model_name_or_path` is {base!r}, which leads out of where it lies")
    told: list[tuple[bool, str, str, str]] = []
    if found.record is None:
        told += [(True, *about_missing(config, name)) for name in missing_settings(config)]
        told += [(True, *of_type) for of_type in wrong_types(config)]
        told += early_fields(config)
    if changed := changed_base(config):
        what, advice = changed
        told.append((True, what, "whether PEFT makes that base again is not certain", advice))
    if wrong or not any(changes for changes, *_ in told):
        found.findings.judge(
            "settings",
            wrong,
            f"{kind}" + (f", r={rank}" if (rank := config.get("r")) else ""),
            "PEFT would act on it",
            "do not load it; ask whoever published it",
        )
    for changes, what, meaning, advice in told:
        tell = found.findings.wrong if changes else found.findings.note
        tell("settings", what, meaning, advice)


def _look_at_templates(found: Inspected) -> None:
    texts: list[object] = []
    for file in (*found.folder.glob("*.jinja"), *found.folder.glob("chat_template.json")):
        if file.stat().st_size > LARGEST_JSON:
            raise ValueError(f"`{file.name}` is too large")
        texts.append(file.read_text("utf-8", "replace"))
    tokenizer = _read_json(found, "tokenizer_config.json")
    template = tokenizer.get("chat_template") if tokenizer is not None else None
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
