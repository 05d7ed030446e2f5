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
    """The content of peftkit.json; None for another program's adapter."""
    config: AdapterConfig | None = None
    """adapter_config.json completed with `user_settings`; None for methods without this file."""
    user_settings: Mapping[str, object] = field(default_factory=dict)
    """Field missing in adapter_config.json -> the value that the user gave."""
    tensors: dict[str, dict[str, Stored]] = field(default_factory=dict)
    """Name of a safetensors file -> tensor name -> tensor."""
    head: JsonObject | None = None
    """The content of AdapterHub's head_config.json; None if the folder has no such file."""

    @property
    def from_adapterhub(self) -> bool:
        """Whether AdapterHub's library saved the adapter."""
        return self.record is None and self.config is not None and is_adapterhub(self.config)

    @property
    def passed(self) -> bool:
        """Whether the adapter may be loaded: no check found a problem."""
        return not self.findings.problems

    def problems_of(self, check: str) -> bool:
        """Whether the check with this name found a problem."""
        return any(problem.check == check for problem in self.findings.problems)

    def raise_if_wrong(self) -> None:
        """Raises AdapterError with the first problem, if any check found one."""
        for problem in self.findings.problems:
            untrusted = f"the adapter in `{self.folder}` cannot be trusted"
            raise AdapterError(
                f"{untrusted if self.findings.is_adapter else f'`{self.folder}`'}: {problem.found}",
                problem.advice or f"run `peftkit verify {self.folder}` for details",
            )
