"""Reads adapter_config.json, an adapter's settings as PEFT saves them. Needs no torch or PEFT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from peftkit.errors import AdapterError
from peftkit.parts.json_object import JsonObject

CONFIG = "adapter_config.json"


class AdapterConfig(JsonObject):
    """The content of an adapter_config.json; empty for methods that write none."""

    def __init__(self, content: Mapping[str, object] | None = None) -> None:
        super().__init__(content or {}, CONFIG)

    @property
    def kind(self) -> str:
        """PEFT's name of the adapter's type, such as `LORA`; empty if there is none."""
        return self.text("peft_type")

    @property
    def targets(self) -> str | tuple[str, ...]:
        """Names of the adapted modules, or a pattern for them; empty if there are none."""
        value = self.get("target_modules")
        return value if isinstance(value, str) else tuple(self.texts("target_modules"))


def read_config(folder: Path) -> AdapterConfig:
    """Returns the content of a folder's adapter_config.json; empty if the folder has none.

    Raises:
        AdapterError: the file is not a JSON object.
    """
    file = folder / CONFIG
    if not file.is_file():
        return AdapterConfig()
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"`{file}` is not JSON: {error}", "copy or download it again") from error
    if not isinstance(content, dict):
        raise AdapterError(f"`{file}` holds {type(content).__name__}, not an object with fields")
    return AdapterConfig(content)
