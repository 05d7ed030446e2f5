"""Any other tuner of PEFT, by its configuration.

    PeftMethod(config={"peft_type": "OFT", "oft_block_size": 8, "target_modules": "all-linear"})
    PeftMethod(config=peft.OFTConfig(oft_block_size=8, target_modules="all-linear"))

What it computes and which papers it is from is told by PEFT's documentation. peftkit adds its
checks: every tensor gets a gradient, nothing else changes, what is saved reads back the same.
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
from peftkit.methods.peft.field_types import wrong_given
from peftkit.methods.peft.tuners import (
    CHANGE_THE_BASE,
    MERGED_BY,
    NO_BIAS,
    NOT_MERGED,
    NOT_SERVED,
    ON_QUANTIZED,
    OTHER_TARGETS,
    STARTS_OF_OUR_OWN,
    VIRTUAL,
)
from peftkit.methods.peft.types import config_classes, kind_of
from peftkit.methods.prefix_tuning import PrefixTuning
from peftkit.methods.reasons import no_weaker_virtual_tokens, virtual_tokens_have_no_labels
from peftkit.methods.stored import _StoredByPeft
from peftkit.methods.targets.targets import ALL_LINEAR
from peftkit.parts.json_values import as_json

if TYPE_CHECKING:
    from torch import nn

    from peftkit.data.encoded import Encoded
    from peftkit.data.head import Head

FIELD = "method.config"
"""Of a recipe, in which the settings are."""
SET_BY_PEFTKIT = ("task_type", "inference_mode", "base_model_name_or_path", "revision")


class PeftMethod(_StoredByPeft):
    """Trains whatever a PEFT configuration describes."""

    config: dict[str, object] = Field(min_length=1)
    """Fields of the PEFT configuration, with its `peft_type`; or the configuration itself."""

    @field_validator("config", mode="before")
    @classmethod
    def _fields(cls, value: Any) -> Any:
        if dataclasses.is_dataclass(value) and hasattr(value, "peft_type"):  # a peft.PeftConfig
            given = {
                field.name: getattr(value, field.name)
                for field in dataclasses.fields(value)
                if getattr(value, field.name) not in (field.default, _made(field))
            }
            value = {**given, "peft_type": kind_of(value)}
        return value

    @field_validator("config")
    @classmethod
    def _plain(cls, value: dict[str, object]) -> dict[str, object]:
        if not isinstance(kind := value.get("peft_type"), str):
            raise ValueError("needs a `peft_type`, such as `OFT`")
        if found := [name for name in SET_BY_PEFTKIT if value.get(name) is not None]:
            raise ValueError(f"`{found[0]}` is set by peftkit")
        if reason := NOT_SERVED.get(kind):
            raise ValueError(f"{kind} is not served: {reason}")
        start = str(value.get("init_lora_weights", "")).lower()
        if start.startswith(STARTS_OF_OUR_OWN):
            raise ValueError(
                f"`init_lora_weights` {start} is more than a configuration can say; use PiSSA, "
                "OLoRA or EVA"
            )
        if value.get("megatron_config"):
            raise ValueError("`megatron_config` is for layers of Megatron's, which no base has")
        virtual = value.get("num_virtual_tokens")
        if kind in VIRTUAL and not (isinstance(virtual, int) and virtual > 0):
            raise ValueError(f"`num_virtual_tokens` is {virtual!r}, not a positive number")
        try:
            plain: dict[str, object] = as_json(value)
        except TypeError as error:
            raise ValueError(f"cannot be recorded: {error}") from error
        if wrong := next(wrong_given(plain), ""):
            raise ValueError(wrong)
        return plain

    @property
    def _given(self) -> AdapterConfig:
        """The settings, by their types."""
        return AdapterConfig(self.config)

    @property
    def position_offset(self) -> int:
        return self._given.whole("num_virtual_tokens") or 0

    def refuses(self, head: Head, base: Base) -> str | None:
        kind = self._given.kind
        if kind in VIRTUAL[:2] and (reason := virtual_tokens_have_no_labels(kind, head)):
            return reason
        if base.quantization == "none":
            return None
        if kind == "LORA" and self.config.get("use_dora"):
            return DoRA().refuses(head, base)
        if kind in ON_QUANTIZED:
            return None
        return (
            f"PEFT's {kind} is not known to compute right on {base.quantization} weights; use LoRA "
            f'on {base.quantization}, or {kind} with `base.quantization = "none"`'
        )

    def refuses_checkpointing(self) -> str | None:
        if self._given.kind == "PREFIX_TUNING":
            return PrefixTuning().refuses_checkpointing()
        return None

    def refuses_merging(self, base: Base) -> str | None:
        if self.config.get("layer_replication"):
            return (
                "its blocks are copies that share their weights (`layer_replication`), and each "
                "copy adds its own, so that it cannot be folded into them; keep the adapter"
            )
        if found := [name for name in NOT_MERGED if self.config.get(name)]:
            return f"{NOT_MERGED[found[0]]} (`{found[0]}`); keep the adapter"
        if (kind := self._given.kind) in MERGED_BY:
            return MERGED_BY[kind].refuses_merging(base)
        return (
            "whether a merge is exact is not known of every tuner of PEFT, so that peftkit does "
            f"not merge {kind}; keep the adapter, or use LoRA"
        )

    def refuses_rewinding(self) -> str | None:
        from peftkit.methods.rewinding import REWOUND

        kind = self._given.kind
        if self.position_offset:
            return no_weaker_virtual_tokens(kind)
        if kind not in REWOUND:
            return f"what of PEFT's {kind} carries its strength is not known; LoRA can be rewound"
        whole = [n for n in CHANGE_THE_BASE if self.config.get(n) not in (None, [], False, "none")]
        if whole:
            return f"`{whole[0]}` trains parts of the base beside {kind}; leave it out"
        return None

    def refuses_start(self) -> str | None:
        if not self.position_offset:
            return None
        return (
            "PEFT computes virtual tokens when it saves, and PeftMethod cannot put them back for "
            "training; use PrefixTuning or PromptTuning"
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
            saved = [*(config.modules_to_save or ()), *(modules_to_save(head) or ())]
            config.modules_to_save = saved or None
        if config.is_prompt_learning:
            return inject_virtual(model, config, FIELD)
        return inject_checked(model, config, self.config, FIELD)

    def instead(self) -> str:
        if self._given.kind != "LORA":
            return super().instead()
        return f"name the layers to adapt with `{FIELD}.target_modules`"

    def notes(self, model: nn.Module, head: tuple[str, ...]) -> Sequence[str]:
        from peftkit.methods.targets.layers import note_on_left_out

        told = note_on_left_out(model, self._given.targets, head, self._given.kind)
        return (*told, *self._note_on_biases(model, head))

    def _note_on_biases(self, model: nn.Module, head: tuple[str, ...]) -> Sequence[str]:
        """What a person should know where LoRA's own biases have none of the base's to go into."""
        from peftkit.methods.targets.layers import ends_in, linear_names

        wanted = self._given.targets or ALL_LINEAR
        pattern = isinstance(wanted, str) and wanted != ALL_LINEAR
        if pattern or not self.config.get("lora_bias"):
            return ()
        names = linear_names(model, head)
        layers = [n for n in names if wanted == ALL_LINEAR or any(ends_in(n, w) for w in wanted)]
        if all(model.get_submodule(name).bias is not None for name in layers):
            return ()
        return (NO_BIAS,)

    def _check_targets(self, model: nn.Module, config: Any, head: tuple[str, ...]) -> None:
        """Raises MethodError where targets are no layers that can be adapted."""
        from peftkit.methods.targets.checked_targets import linear_targets, named_modules
        from peftkit.methods.targets.patterns import check_pattern

        kind = self._given.kind
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
        """Keeps the tuner out of the head, and out of what `all-linear` leaves out."""
        from peftkit.methods.targets.layers import excluded, linear_names

        wanted, kind = getattr(config, "target_modules", None) or "", self._given.kind
        if hasattr(config, "exclude_modules"):
            ours = excluded(model, wanted, head, kind) or ()
            given = config.exclude_modules or ()
            if isinstance(given, str):  # a pattern, to which ours are added
                config.exclude_modules = "|".join([f"({given})", *(rf"(.*\.)?{n}" for n in ours)])
            else:
                config.exclude_modules = [*given, *ours] or None
        elif wanted == ALL_LINEAR:
            config.target_modules = linear_names(model, head, kind)

    def _peft_config(self, task_type: str) -> Any:
        """PEFT's configuration object.

        Raises:
            MethodError: PEFT does not know the type, one of the fields, or a value.
        """
        from peftkit.errors import MethodError, did_you_mean, quoted

        given = {name: value for name, value in self.config.items() if name != "peft_type"}
        kind, kinds = self._given.kind, config_classes()
        if kind not in kinds:
            raise MethodError(
                f"`method.config.peft_type` is `{kind}`, which PEFT does not have",
                did_you_mean(kind, kinds) or f"it has {quoted(sorted(kinds), 60)}",
            )
        chosen = kinds[kind]
        known = {field.name for field in dataclasses.fields(chosen)}
        if unknown := [name for name in given if name not in known]:
            raise MethodError(
                f"`method.config.{unknown[0]}`: {chosen.__name__} has no such field",
                did_you_mean(unknown[0], known) or f"it has {quoted(sorted(known), 60)}",
            )
        _check_choices(chosen, given)
        try:
            with warnings.catch_warnings():  # of what has no effect beside the other settings
                warnings.filterwarnings("error", ".*(ignored|only supported for)", UserWarning)
                made: Any = chosen
                return made(**given, task_type=task_type)
        except Exception as error:  # PEFT's own checks are of many kinds
            raise MethodError(f"`method.config`: {chosen.__name__} refuses it: {error}") from error

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...]) -> nn.Module:
        from peftkit.methods.peft.layout import load_peft
        from peftkit.methods.virtual_tokens import load_virtual

        return (load_virtual if self.position_offset else load_peft)(model, folder)


def _check_choices(chosen: Any, given: Mapping[str, object]) -> None:
    """Raises MethodError if a value is none of those that PEFT lists for its field."""
    from peftkit.errors import MethodError, did_you_mean, quoted

    for name, hint in get_type_hints(chosen).items():
        values = get_args(hint) if get_origin(hint) is Literal else ()
        if values and name in given and given[name] not in values:
            raise MethodError(
                f"`{FIELD}.{name}` is {given[name]!r}, which PEFT does not have",
                did_you_mean(str(given[name]), values) or f"it has {quoted(values)}",
            )


def _made(field: dataclasses.Field[Any]) -> Any:
    """The default of a field that makes a new one each time."""
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()
