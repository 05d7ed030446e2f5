"""An adapter folder whose bytes were looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from peftkit.adapters.inspection.adapterhub_format import is_adapterhub
from peftkit.adapters.inspection.findings import Findings
from peftkit.adapters.inspection.headers import Stored
from peftkit.errors import AdapterError
from peftkit.methods.peft.adapter_config import AdapterConfig
from peftkit.parts.json_object import JsonObject


@dataclass
class Inspected:
    """An adapter folder whose bytes were looked at."""

    folder: Path
    findings: Findings
    record: JsonObject | None = None
    """peftkit.json; None for an adapter that peftkit did not save."""
    config: AdapterConfig | None = None
    """adapter_config.json, with what was given for it; None for methods that are peftkit's own."""
    given: Mapping[str, object] = field(default_factory=dict)
    """Fields that adapter_config.json lacks, and their values as a person gave them."""
    tensors: dict[str, dict[str, Stored]] = field(default_factory=dict)
    """File name -> its tensors."""
    head: JsonObject | None = None
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
            what = f"the adapter in `{self.folder}` cannot be trusted"
            raise AdapterError(
                f"{what if self.findings.is_adapter else f'`{self.folder}`'}: {problem.found}",
                problem.advice or f"`peftkit verify {self.folder}` tells more",
            )
