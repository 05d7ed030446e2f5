"""PEFT's names for types of configurations, and for the adapter in a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftConfig

ADAPTER_NAME = "default"
"""The name that PEFT gives the first adapter of a model."""


def type_name(peft_type: Any) -> str:
    """Returns the name of a PEFT type, such as `LORA`, from a member of its enum or from a text."""
    return str(getattr(peft_type, "value", peft_type))


def kind_of(config: Any) -> str:
    """Returns the name of a PEFT configuration's type, such as `LORA`."""
    return type_name(config.peft_type)


def config_classes() -> dict[str, type[PeftConfig]]:
    """Returns PEFT's configuration classes by the names of their types."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return {type_name(key): config for key, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
