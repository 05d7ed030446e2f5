"""The identity of a base: SHA-256 of the files it is made of."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peftkit.bases.files import WEIGHT_FILES
from peftkit.bases.opened import OpenedBase
from peftkit.data.packaged import sha256_of


@dataclass(frozen=True)
class Fingerprint:
    """Which base an adapter belongs to, independent of where its files lie."""

    name: str
    """As the recipe names it; only the last part of a local path."""
    hub_id: str
    revision: str
    quantization: str
    """What is done to these files when they are loaded; `none` for files that are quantized."""
    double_quant: bool
    files: dict[str, str]
    """File name -> SHA-256: the configuration and the weights, or the GGUF file."""
    sha256: str
    """Over `files`; two bases with the same value have the same bytes."""

    def to_json(self) -> dict[str, Any]:
        """As recorded in peftkit.json."""
        return asdict(self)


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
