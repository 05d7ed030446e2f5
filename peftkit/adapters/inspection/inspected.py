"""The result of inspecting an adapter folder's bytes."""

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
    """An inspected adapter folder: its settings, tensors and findings."""

    folder: Path
    findings: Findings
    record: JsonObject | None = None
    """peftkit.json; None for another program's adapter."""
    config: AdapterConfig | None = None
    """adapter_config.json with `user_settings`; None for methods that are only peftkit's."""
    user_settings: Mapping[str, object] = field(default_factory=dict)
    """Values the user gave for fields missing in adapter_config.json."""
    tensors: dict[str, dict[str, Stored]] = field(default_factory=dict)
    """File name -> its tensors."""
    head: JsonObject | None = None
    """head_config.json, if AdapterHub's library saved the adapter with its head."""

    @property
    def from_adapterhub(self) -> bool:
        """Whether AdapterHub's library wrote it."""
        return self.record is None and self.config is not None and is_adapterhub(self.config)

    @property
    def passed(self) -> bool:
        """Whether it may be loaded."""
        return not self.findings.problems

    def problems_of(self, check: str) -> bool:
        """Whether a check found something wrong."""
        return any(problem.check == check for problem in self.findings.problems)

    def raise_if_wrong(self) -> None:
        """Raises AdapterError with the first problem, if there is one."""
        for problem in self.findings.problems:
            untrusted = f"the adapter in `{self.folder}` cannot be trusted"
            raise AdapterError(
                f"{untrusted if self.findings.is_adapter else f'`{self.folder}`'}: {problem.found}",
                problem.advice or f"run `peftkit verify {self.folder}` for details",
            )
