"""Trains with any tuner of PEFT, given its configuration.

    PeftMethod(config={"peft_type": "OFT", "oft_block_size": 8, "target_modules": "all-linear"})
    PeftMethod(config=peft.OFTConfig(oft_block_size=8, target_modules="all-linear"))

PEFT's documentation says what each tuner computes and which paper it is from. peftkit
checks that every trained tensor gets a gradient, nothing else changes, and a saved adapter reads
back the same.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import Field, field_validator

from peftkit.bases.base import Base
from peftkit.methods.dora import DoRA
from peftkit.methods.peft.adapter_config import AdapterConfig
from peftkit.methods.peft.field_types import wrong_values
from peftkit.methods.peft.tuners import (
    CHANGE_THE_BASE,
    MERGED_BY,
    NO_BIAS,
    NOT_MERGED,
    NOT_SUPPORTED,
    ON_QUANTIZED,
    OTHER_TARGETS,
    OWN_INITS,
    VIRTUAL,
)
from peftkit.methods.peft.types import config_classes, kind_of
from peftkit.methods.prefix_tuning import PrefixTuning
from peftkit.methods.reasons import rewinding_refusal, token_labels_refusal
from peftkit.methods.stored import StoredByPeft
from peftkit.methods.targets.targets import ALL_LINEAR
from peftkit.parts.json_values import as_json

if TYPE_CHECKING:
    from torch import nn

    from peftkit.data.encoded import Encoded
    from peftkit.data.head import Head

FIELD = "method.config"
"""Name of the recipe's field that holds the configuration, for messages."""
SET_BY_PEFTKIT = ("task_type", "inference_mode", "base_model_name_or_path", "revision")


class PeftMethod(StoredByPeft):
    """Trains with the tuner of PEFT that a configuration describes."""

    config: dict[str, object] = Field(min_length=1)
    """Fields of the PEFT configuration, including `peft_type`; or a `peft.PeftConfig`."""

    @field_validator("config", mode="before")
    @classmethod
    def _from_peft_config(cls, value: Any) -> Any:
        if dataclasses.is_dataclass(value) and hasattr(value, "peft_type"):  # a peft.PeftConfig
            changed = {
                field.name: getattr(value, field.name)
                for field in dataclasses.fields(value)
                if getattr(value, field.name) not in (field.default, _factory_default(field))
            }
            value = {**changed, "peft_type": kind_of(value)}
        return value

    @field_validator("config")
    @classmethod
    def _check_config(cls, value: dict[str, object]) -> dict[str, object]:
        if not isinstance(kind := value.get("peft_type"), str):
            raise ValueError("needs a `peft_type`, such as `OFT`")
        if reserved := [name for name in SET_BY_PEFTKIT if value.get(name) is not None]:
            raise ValueError(f"`{reserved[0]}` is set by peftkit")
        if reason := NOT_SUPPORTED.get(kind):
            raise ValueError(f"{kind} is not supported: {reason}")
        start = str(value.get("init_lora_weights", "")).lower()
        if start.startswith(OWN_INITS):
            raise ValueError(
                f"`init_lora_weights` {start} needs more than a configuration; use PiSSA, OLoRA or "
                "EVA"
            )
        if value.get("megatron_config"):
            raise ValueError("`megatron_config` is for Megatron's layers, which no base has")
        virtual = value.get("num_virtual_tokens")
        if kind in VIRTUAL and not (isinstance(virtual, int) and virtual > 0):
            raise ValueError(f"`num_virtual_tokens` is {virtual!r}, not a positive number")
        try:
            plain: dict[str, object] = as_json(value)
        except TypeError as error:
            raise ValueError(f"cannot be recorded: {error}") from error
        if wrong := next(wrong_values(plain), ""):
            raise ValueError(wrong)
        return plain

    @property
    def _settings(self) -> AdapterConfig:
        """The configuration, with methods that return its fields as a given type."""
        return AdapterConfig(self.config)

    @property
    def position_offset(self) -> int:
        return self._settings.whole("num_virtual_tokens") or 0

    def refuses(self, head: Head, base: Base) -> str | None:
        kind = self._settings.kind
        if kind in VIRTUAL[:2] and (reason := token_labels_refusal(kind, head)):
            return reason
        if base.quantization == "none":
            return None
        if kind == "LORA" and self.config.get("use_dora"):
            return DoRA().refuses(head, base)
        if kind in ON_QUANTIZED:
            return None
        return (
            f"PEFT's {kind} is not known to compute correctly on {base.quantization} weights; use "
            f'LoRA on {base.quantization}, or {kind} with `base.quantization = "none"`'
        )

    def refuses_checkpointing(self) -> str | None:
        if self._settings.kind == "PREFIX_TUNING":
            return PrefixTuning().refuses_checkpointing()
        return None

    def refuses_merging(self, base: Base) -> str | None:
        if self.config.get("layer_replication"):
            return (
                "its blocks are copies that share their weights (`layer_replication`), and each "
                "copy has its own update, which cannot be folded into them; keep the adapter"
            )
        if names := [name for name in NOT_MERGED if self.config.get(name)]:
            return f"{NOT_MERGED[names[0]]} (`{names[0]}`); keep the adapter"
        if (kind := self._settings.kind) in MERGED_BY:
            return MERGED_BY[kind].refuses_merging(base)
        return (
            f"it is not known whether a merge of PEFT's {kind} is exact, so peftkit does not merge "
            "it; keep the adapter, or use LoRA"
        )

    def refuses_rewinding(self) -> str | None:
        from peftkit.methods.rewinding import REWOUND

        kind = self._settings.kind
        if self.position_offset:
            return rewinding_refusal(kind)
        if kind not in REWOUND:
            return f"the tensors that scale PEFT's {kind} are not known; LoRA can be rewound"
        whole = [n for n in CHANGE_THE_BASE if self.config.get(n) not in (None, [], False, "none")]
        if whole:
            return f"`{whole[0]}` trains parts of the base beside {kind}; leave it out"
        return None

    def refuses_start(self) -> str | None:
        if not self.position_offset:
            return None
        return (
            "PEFT computes virtual tokens when it saves them, and PeftMethod cannot restore them "
            "for training; use PrefixTuning or PromptTuning"
        )

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        from peftkit.methods.peft.injection import fan_in_fan_out, modules_to_save
        from peftkit.methods.targets.matching import inject_checked
        from peftkit.methods.virtual_tokens import inject_virtual

        config = self._peft_config(encoded.head.task_type)
        self._check_targets(model, config, head)
        self._exclude(model, config, head)
        if hasattr(config, "fan_in_fan_out"):
            config.fan_in_fan_out = fan_in_fan_out(model)
        if hasattr(config, "modules_to_save"):
            saved = [
                *(config.modules_to_save or ()),
                *(modules_to_save(encoded.head.task_type, head) or ()),
            ]
            config.modules_to_save = saved or None
        if config.is_prompt_learning:
            return inject_virtual(model, config, FIELD)
        return inject_checked(model, config, self.config, FIELD)

    def instead(self) -> str:
        if self._settings.kind != "LORA":
            return super().instead()
        return f"name the layers to adapt with `{FIELD}.target_modules`"

    def notes(self, model: nn.Module, head: tuple[str, ...]) -> Sequence[str]:
        from peftkit.methods.targets.layers import note_on_left_out

        left_out = note_on_left_out(model, self._settings.targets, head, self._settings.kind)
        return (*left_out, *self._note_on_biases(model, head))

    def _note_on_biases(self, model: nn.Module, head: tuple[str, ...]) -> Sequence[str]:
        """Returns a note if LoRA trains biases of layers that have none in the base."""
        from peftkit.methods.targets.layers import ends_in, linear_names

        wanted = self._settings.targets or ALL_LINEAR
        pattern = isinstance(wanted, str) and wanted != ALL_LINEAR
        if pattern or not self.config.get("lora_bias"):
            return ()
        names = linear_names(model, head)
        layers = [n for n in names if wanted == ALL_LINEAR or any(ends_in(n, w) for w in wanted)]
        if all(model.get_submodule(name).bias is not None for name in layers):
            return ()
        return (NO_BIAS,)

    def _check_targets(self, model: nn.Module, config: Any, head: tuple[str, ...]) -> None:
        """Raises MethodError if a target is not a layer that can be adapted."""
        from peftkit.methods.targets.checked_targets import linear_targets, named_modules
        from peftkit.methods.targets.patterns import check_pattern

        kind = self._settings.kind
        wanted, field = getattr(config, "target_modules", None), f"{FIELD}.target_modules"
        if not wanted:
            return
        if kind in ("LORA", "IA3"):
            linear_targets(model, wanted, head, kind, field)
        elif not isinstance(wanted, str):
            named_modules(model, sorted(wanted), head, field)
        elif wanted != ALL_LINEAR and kind not in OTHER_TARGETS:
            check_pattern(model, wanted, head, (), field)

    def _exclude(self, model: nn.Module, config: Any, head: tuple[str, ...]) -> None:
        """Excludes the head and, for `all-linear`, the layers that cannot be adapted."""
        from peftkit.methods.targets.layers import excluded_modules, linear_names

        wanted, kind = getattr(config, "target_modules", None) or "", self._settings.kind
        if hasattr(config, "exclude_modules"):
            ours = excluded_modules(model, wanted, head, kind) or ()
            users = config.exclude_modules or ()
            if isinstance(users, str):  # a pattern, to which ours are added
                config.exclude_modules = "|".join([f"({users})", *(rf"(.*\.)?{n}" for n in ours)])
            else:
                config.exclude_modules = [*users, *ours] or None
        elif wanted == ALL_LINEAR:
            config.target_modules = linear_names(model, head, kind)

    def _peft_config(self, task_type: str) -> Any:
        """Builds PEFT's configuration object.

        Raises:
            MethodError: PEFT does not know the type, one of the fields, or a value.
        """
        from peftkit.errors import MethodError, did_you_mean, quoted

        settings = {name: value for name, value in self.config.items() if name != "peft_type"}
        kind, kinds = self._settings.kind, config_classes()
        if kind not in kinds:
            raise MethodError(
                f"`method.config.peft_type` is `{kind}`, which PEFT does not have",
                did_you_mean(kind, kinds) or f"it has {quoted(sorted(kinds), 60)}",
            )
        chosen = kinds[kind]
        known = {field.name for field in dataclasses.fields(chosen)}
        if unknown := [name for name in settings if name not in known]:
            raise MethodError(
                f"`method.config.{unknown[0]}`: {chosen.__name__} has no such field",
                did_you_mean(unknown[0], known) or f"it has {quoted(sorted(known), 60)}",
            )
        _check_choices(chosen, settings)
        try:
            with warnings.catch_warnings():  # PEFT warns of settings without effect
                warnings.filterwarnings("error", ".*(ignored|only supported for)", UserWarning)
                build: Any = chosen
                return build(**settings, task_type=task_type)
        except Exception as error:  # PEFT's checks raise many types
            raise MethodError(f"`method.config`: {chosen.__name__} refuses it: {error}") from error

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...]) -> nn.Module:
        from peftkit.methods.peft.layout import load_peft
        from peftkit.methods.virtual_tokens import load_virtual

        return (load_virtual if self.position_offset else load_peft)(model, folder)


def _check_choices(chosen: Any, settings: Mapping[str, object]) -> None:
    """Raises MethodError if a value is not one of the choices that PEFT lists for its field."""
    from peftkit.errors import MethodError, did_you_mean, quoted

    for name, hint in get_type_hints(chosen).items():
        values = get_args(hint) if get_origin(hint) is Literal else ()
        if values and name in settings and settings[name] not in values:
            raise MethodError(
                f"`{FIELD}.{name}` is {settings[name]!r}, which PEFT does not have",
                did_you_mean(str(settings[name]), values) or f"it has {quoted(values)}",
            )


def _factory_default(field: dataclasses.Field[Any]) -> Any:
    """Returns the default that a field's factory makes; None if the field has no factory."""
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()
