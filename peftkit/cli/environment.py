"""The command `peftkit env`: facts about the machine for a bug report."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from peftkit.bases.dequantized import cache_folder
from peftkit.bases.packages import ALWAYS, NOT_INSTALLED, SOMETIMES, installed_version, is_installed
from peftkit.data.packaged import DATA, MODELS, PREFIX
from peftkit.parts.records import to_json
from peftkit.training.threads import CHOSEN_BY_USER, resolved_threads, usable_cpus
from peftkit.wording import plural

VARIABLES = (
    *CHOSEN_BY_USER, "CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE",
    "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "XDG_CACHE_HOME",
)  # fmt: skip
"""Environment variables that change what a run does; none of them is a secret."""


@dataclass(frozen=True)
class Cache:
    """A folder of cached downloads or conversions."""

    path: str
    """Path of the folder, with `~` for the home folder."""
    size_mb: float | None
    """Total size of the folder's files, in MB of 2**20 bytes; None if there is no folder."""


@dataclass(frozen=True)
class Environment:
    """Facts about a machine that determine how peftkit behaves."""

    peftkit: str
    python: str
    platform: str
    memory_mb: float | None
    """Total memory of the machine, in MB of 2**20 bytes; None if psutil is not installed."""
    devices: tuple[str, ...]
    """Devices on which torch can compute; empty if torch is not installed."""
    usable_cpus: int
    threads: int | None
    """Default number of a run's threads; None if torch is not installed."""
    packages: Mapping[str, str]
    """Package -> its version, or `not installed`."""
    packaged: tuple[str, ...]
    """Names of the models and data sets in installed packages, such as `packaged:minilm-l6`."""
    caches: Mapping[str, Cache]
    variables: Mapping[str, str]
    """Name -> value, for each environment variable in `VARIABLES` that is set."""


def env_command(options: argparse.Namespace) -> None:
    """Prints the environment as text, or as one JSON object."""
    facts = environment()
    if options.json:
        print(json.dumps(to_json(facts), ensure_ascii=False))
        return
    memory = f"{facts.memory_mb / 1024:.1f} GB" if facts.memory_mb else "unknown"
    print(f"peftkit     {facts.peftkit}")
    print(f"python      {facts.python}")
    print(f"platform    {facts.platform}")
    print(f"memory      {memory}")
    print(f"devices     {', '.join(facts.devices) or f'unknown: torch is {NOT_INSTALLED}'}")
    threads = plural(facts.threads, "thread") if facts.threads else "unknown"
    print(f"threads     {threads} on {plural(facts.usable_cpus, 'usable CPU')}")
    print(f"packaged    {', '.join(facts.packaged)}")
    for heading, values in (("packages", facts.packages), ("variables", facts.variables)):
        print(f"{heading}:" if values else f"{heading}:  none set")
        for name, value in values.items():
            print(f"  {name:<20}{value}")
    print("caches:")
    for name, cache in facts.caches.items():
        size = "no such folder" if cache.size_mb is None else f"{cache.size_mb:,.0f} MB"
        print(f"  {name:<20}{size:<16}{cache.path}")


def environment() -> Environment:
    """Collects facts about this machine; a missing package is not an error."""
    has_torch = is_installed("torch")
    return Environment(
        peftkit=installed_version("peftkit"),
        python=sys.version.split()[0],
        platform=platform.platform(),
        memory_mb=_memory_mb(),
        devices=_devices() if has_torch else (),
        usable_cpus=usable_cpus(),
        threads=resolved_threads(None) if has_torch else None,
        packages={name: installed_version(name) for name in {**ALWAYS, **SOMETIMES}.values()},
        packaged=tuple(
            f"{PREFIX}{name}"
            for name, entry in {**MODELS, **DATA}.items()
            if is_installed(entry.module)
        ),
        caches={name: _cache(folder) for name, folder in _caches().items()},
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
    )


def _memory_mb() -> float | None:
    if not is_installed("psutil"):
        return None
    import psutil

    return float(psutil.virtual_memory().total // 2**20)


def _devices() -> tuple[str, ...]:
    import torch

    gpus = [
        f"{torch.cuda.get_device_name(index)} "
        f"({torch.cuda.get_device_properties(index).total_memory / 2**30:.0f} GB, "
        f"CUDA {torch.version.cuda or torch.version.hip})"
        for index in range(torch.cuda.device_count())
    ]
    other = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    named = [other.type] if other is not None and not gpus else []
    return (*gpus, *named, f"cpu ({platform.machine()})")


def _caches() -> dict[str, Path]:
    """Returns name -> folder of the caches: Hub files, prepared data and dequantized models."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return {
        "Hub": Path(os.environ.get("HF_HUB_CACHE") or home / "hub"),
        "datasets": Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets"),
        "peftkit": cache_folder(),
    }


def _cache(folder: Path) -> Cache:
    folder = folder.expanduser()
    inside = folder.is_relative_to(Path.home())
    shown = f"~/{folder.relative_to(Path.home())}" if inside else str(folder)
    if not folder.is_dir():
        return Cache(shown, None)
    size = 0
    for where, _, names in os.walk(folder):  # without following links
        for name in names:
            with contextlib.suppress(OSError):  # another process may remove the file
                size += os.lstat(Path(where, name)).st_size
    return Cache(shown, round(size / 2**20, 1))
