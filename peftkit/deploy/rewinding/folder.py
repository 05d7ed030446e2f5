"""Writes a rewound adapter as a new adapter, with its own digests and probes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from peftkit.adapters.card import write_card
from peftkit.adapters.inspection.digests import RECORD
from peftkit.adapters.loading import OpenedAdapter
from peftkit.adapters.probes import take_probes, tolerance
from peftkit.adapters.record import Record, Rewound, config_digests, tensor_digests, versions
from peftkit.adapters.saving import PARTIAL
from peftkit.atomic import fsync_files
from peftkit.data.packaged import sha256_of
from peftkit.deploy.merging.folding import vocabulary_of
from peftkit.methods.peft.adapter_config import read_config

CARD = "README.md"
BEFORE = "not rewound"
"""Name of the model card's row with the scores before rewinding."""


def write_rewound(
    model: nn.Module,
    adapter: OpenedAdapter,
    scale: float,
    scores: Mapping[str, float],
    run_folder: Path,
) -> Record:
    """Writes the rewound adapter into a folder.

    Args:
        model: the base with the rewound adapter.
        scores: scores of the rewound model on the test split.

    Returns:
        The record of the new adapter.
    """
    folder = run_folder / PARTIAL
    folder.mkdir()
    file, rewound = adapter.recipe.method.adapter_tensors(model)
    for source in adapter.folder.iterdir():
        if source.is_file() and source.name not in (RECORD, CARD, file):
            shutil.copyfile(source, folder / source.name)
    saved = load_file(adapter.folder / file)
    tensors = {name: rewound[name].detach().cpu().to(t.dtype) for name, t in saved.items()}
    plain = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(plain, folder / file, metadata={"format": "pt"})
    fsync_files(folder)
    base = adapter.base
    probes = take_probes(model, vocabulary_of(base), base.added_ids, tolerance(base.spec))
    metrics = dict(adapter.record.metrics)
    metrics.setdefault(BEFORE, metrics.pop("after"))  # set before if it was rewound before
    earlier_scale = adapter.record.rewound.scale if adapter.record.rewound else 1.0
    record = replace(
        adapter.record,
        weights={path.name: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))},
        tensors=tensor_digests(folder),
        peft_config=read_config(folder),
        configs=config_digests(folder),
        metrics={**metrics, "after": dict(scores)},
        probes=probes,
        versions=versions(),
        rewound=Rewound(scale * earlier_scale, adapter.record.weights),
    )
    record.write(folder)
    write_card(folder, run_folder.name, record, adapter.recipe.task)
    return record
