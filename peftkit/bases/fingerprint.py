"""Identifies a base by the SHA-256 of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peftkit.bases.files import WEIGHT_FILES
from peftkit.bases.opened import OpenedBase
from peftkit.data.packaged import sha256_of


@dataclass(frozen=True)
class Fingerprint:
    """Identifies an adapter's base by name, quantization and digests of files, not by folder."""

    name: str
    """The base's name in the recipe; for a local path, only the last part."""
    hub_id: str
    revision: str
    quantization: str
    """Quantization applied on loading; `none` if the files are quantized already."""
    double_quant: bool
    files: dict[str, str]
    """File name -> SHA-256: the configuration and the weights, or the GGUF file."""
    sha256: str
    """Digest of `files`; bases with the same value have the same bytes."""


@dataclass(frozen=True)
class RecordedBase(Fingerprint):
    """The base of a run, as recorded: its fingerprint, and how its weights were loaded."""

    dtype: str
    """Dtype of the base's weights in training."""
    unquantized: tuple[str, ...] = ()
    """Names of a quantized base's modules whose weights are not quantized, except embeddings."""
    num_hidden_layers: int | None = None

    @property
    def known_name(self) -> str:
        """The base's Hub id; its name in the recipe if it has no Hub id."""
        return self.hub_id or self.name


def fingerprint(base: OpenedBase) -> Fingerprint:
    """Digests the files of a base whose weights are on disk."""
    if base.source is not None:
        paths = [base.source]
    else:
        weights = [sorted(base.folder.glob(pattern)) for pattern in WEIGHT_FILES]
        paths = [base.folder / "config.json", *next(filter(None, weights), [])]
    files = {path.name: sha256_of(path) for path in paths}
    digest = hashlib.sha256("".join(f"{n} {d}\n" for n, d in sorted(files.items())).encode())
    local = Path(base.spec.name_or_path).expanduser().exists()
    return Fingerprint(
        name=Path(base.spec.name_or_path).name if local else base.spec.name_or_path,
        hub_id=base.hub_id,
        revision=base.revision,
        quantization="none" if base.prequantized else base.spec.quantization,
        double_quant=base.spec.double_quant and not base.prequantized,
        files=files,
        sha256=digest.hexdigest(),
    )


def recorded_base(base: OpenedBase, dtype: str, unquantized: Sequence[str]) -> RecordedBase:
    """The record of a base whose weights are on disk.

    Args:
        dtype: dtype of the base's weights in training.
        unquantized: names of a quantized base's modules whose weights are not quantized.
    """
    layers = getattr(base.config, "num_hidden_layers", None)
    return RecordedBase(
        **vars(fingerprint(base)),
        dtype=dtype,
        unquantized=tuple(unquantized),
        num_hidden_layers=layers,
    )
