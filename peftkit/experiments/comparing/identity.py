"""Identifies a comparison, so that its folder cannot be resumed by another comparison."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from peftkit.adapters.record import versions
from peftkit.bases.devices import device_name, open_accelerator
from peftkit.bases.fingerprint import Fingerprint, fingerprint
from peftkit.evaluation.retention import Retention, load_texts
from peftkit.experiments.comparing.grid import Grid
from peftkit.experiments.jobs.folder import Identity
from peftkit.experiments.jobs.own_modules import foreign_modules, module_digests
from peftkit.parts.records import to_json
from peftkit.stages.preparing import Prepared


@dataclass(frozen=True)
class GeneralText:
    """The general text on which forgetting is measured."""

    path: str
    text: str
    subset: str
    max_rows: int
    max_length: int
    sha256: str
    """SHA-256 of the texts."""


@dataclass(frozen=True)
class Common:
    """Data, base, device and versions of a comparison: the content of grid.json."""

    general_text: GeneralText | None
    base: Fingerprint
    data: str
    """SHA-256 of the encoded examples."""
    device: str
    versions: dict[str, str]


def common(grid: Grid, first: Prepared) -> Common:
    """Collects the content of grid.json."""
    return Common(
        general_text=_general_text(grid.budget.retention),
        base=fingerprint(first.base),
        data=first.encoded.sha256,
        device=device_name(open_accelerator(first.recipe.base).device),
        versions=versions(),
    )


def identity(grid: Grid, shared: Common) -> Identity:
    """Collects what identifies a comparison: grid.json, the recipes, digests of the user's code."""
    modules = {
        module for contender in grid.contenders for module in foreign_modules(contender.recipe)
    }
    return Identity(
        grid=to_json(shared),
        recipes={
            contender.name: json.loads(contender.recipe.to_json()) for contender in grid.contenders
        },
        code=module_digests(modules),
    )


def _general_text(retention: Retention | None) -> GeneralText | None:
    if retention is None:
        return None
    texts = "\0".join(load_texts(retention)).encode()
    return GeneralText(**retention.model_dump(), sha256=hashlib.sha256(texts).hexdigest())
