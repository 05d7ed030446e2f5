"""Checks that each setting of PEFT that names modules matches at least one module.

PEFT ignores a name that matches nothing, or only warns. The checks use PEFT's own functions. A key
of a pattern such as `rank_pattern` matches if PEFT looks it up for a layer.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import peft
from peft.tuners.ia3 import IA3Model
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn

from peftkit.bases.architectures import NOT_CALLED, stacks
from peftkit.bases.quantizing import is_quantized
from peftkit.errors import MethodError, did_you_mean, quoted
from peftkit.methods.peft.injection import inject_peft
from peftkit.methods.peft.pattern_order import order_free
from peftkit.methods.peft.types import kind_of
from peftkit.methods.targets.layers import ends_in, last_names, linear_names
from peftkit.methods.targets.targets import has_block_number, regex_problem

ANY_BLOCK = range(10**6)
ValueT = TypeVar("ValueT")


class _LookupLog(dict[str, ValueT]):
    """A dictionary that records which keys are looked up."""

    def __init__(self, *items: Any) -> None:
        super().__init__(*items)
        self.keys_read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """Returns a value, as any dictionary does, and records the key."""
        self.keys_read.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> ValueT:
        self.keys_read.add(key)
        return super().__getitem__(key)


def inject_checked(
    model: nn.Module, config: peft.PeftConfig, values: Mapping[str, object], field: str = "method"
) -> nn.Module:
    """Injects an adapter like `inject_peft`, and checks that the user's settings match modules.

    Args:
        values: name of a configuration's field -> the user's value; empty values are ignored.
        field: name of the recipe's field that holds the settings, for messages.

    Raises:
        MethodError: a setting matches nothing, or PEFT cannot adapt the model.
    """
    values = {name: value for name, value in values.items() if value not in (None, "", {}, [], ())}
    patterns = {
        name: _log_lookups(value, f"{field}.{name}")
        for name, value in values.items()
        if name.endswith("_pattern") and name != "layers_pattern"
    }
    for name, pattern in patterns.items():
        setattr(config, name, pattern)
    settings = _Settings(model, config, values, field)
    settings.check_model(model)
    fitting = last_names(linear_names(model, ("classifier", "score"), kind_of(config)))
    try:
        injected = inject_peft(model, config, field)
    except MethodError:
        settings.check()  # which may give a clearer reason
        raise
    settings.check()
    _check_called(injected, fitting, f"{field}.target_modules")
    for name, pattern in patterns.items():
        if getattr(config, name) is pattern:  # if not, PEFT has replaced it
            settings.check_pattern(name, pattern)
            layers, kind = _adapted(injected), kind_of(config)
            setattr(config, name, order_free(pattern, layers, kind, f"{field}.{name}"))
    return injected


def _check_called(injected: Any, fitting: list[str], field: str) -> None:
    """Raises MethodError if there is an adapted layer that the architecture never calls.

    Args:
        fitting: last parts of the names of layers that can be adapted, for the hint.
    """
    model = injected.get_base_model()
    for name in getattr(injected.base_model, "targeted_module_names", ()):
        if name.rsplit(".", 1)[-1] in NOT_CALLED.get(model.config.model_type, ()):
            layer = model.get_submodule(name)
            if not is_quantized(getattr(layer, "base_layer", layer)):  # quantized layers are called
                raise MethodError(
                    f"`{field}`: {type(model).__name__} computes with the weight of `{name}` "
                    "without calling the layer, so adapting it has no effect",
                    f"adapt layers that it calls: {quoted(fitting)}",
                )


def _adapted(injected: Any) -> list[str]:
    """Returns names of the adapted layers and parameters, as PEFT compares them with patterns."""
    tuner = injected.base_model
    return [*tuner.targeted_module_names, *tuner.targeted_parameter_names]


def _log_lookups(value: object, field: str) -> _LookupLog[object]:
    """Checks a pattern's keys, and copies it into a dictionary that records lookups."""
    if not isinstance(value, Mapping):
        raise MethodError(f"`{field}` is not a table of names and values", 'write `{"q_proj": 32}`')
    if wrong := regex_problem(value):
        hint = "put a backslash before characters that are meant literally"
        raise MethodError(f"`{field}`: {wrong}", hint)
    return _LookupLog(value)


class _Settings:
    """Checks the user's settings in a PEFT configuration against a model.

    Args:
        model: the model before injection.
        config: the configuration object to inject; injection completes and changes it.
    """

    def __init__(
        self, model: nn.Module, config: peft.PeftConfig, values: Mapping[str, object], field: str
    ) -> None:
        self.model, self.config = type(model).__name__, config
        self.values, self.field = values, field
        self.names = [name for name, _ in model.named_modules() if name]
        self.parameters = [name for name, _ in model.named_parameters()]

    def check_model(self, model: Any) -> None:
        """Raises MethodError if a setting has a token id or a block number that the model lacks."""
        tokens = self._items("trainable_token_indices")
        if isinstance(by_module := self.values.get("trainable_token_indices"), Mapping):
            self._check_names("trainable_token_indices", self.names, "module")
            tokens = [token for ids in by_module.values() for token in _listed(ids)]
        rows = model.get_input_embeddings().weight.shape[0]
        invoking = self._items("alora_invocation_tokens")
        for name, ids in (
            ("trainable_token_indices", tokens),
            ("alora_invocation_tokens", invoking),
        ):
            if beyond := [token for token in ids if token not in range(rows)]:
                raise MethodError(
                    f"`{self.field}.{name}`: {beyond[0]!r} is not a row of the embedding, which "
                    f"has {rows} rows",
                    "give ids of the tokenizer's tokens",
                )
        copied = self._items("layer_replication")
        depth = max((len(blocks) for _, blocks in stacks(model)), default=0)
        spans = [list(span) for span in itertools.combinations(range(depth + 1), 2)]
        if wrong := [span for span in copied if _listed(span) not in spans]:
            raise MethodError(
                f"`{self.field}.layer_replication`: {wrong[0]} is not a span of the {depth} blocks "
                f"of {self.model}",
                f"give beginnings and ends from 0 to {depth}",
            )

    def check(self) -> None:
        """Raises MethodError if a setting matches nothing."""
        self._check_names("exclude_modules", self.names, "module")
        self._check_names("target_parameters", self.parameters, "parameter")
        if getattr(self.config, "target_modules", None):
            self._check_feedforward()
            self._check_layers()

    def _items(self, setting: str) -> list[object]:
        """Returns the values of a setting, or the keys if it is a table; empty if it is not set."""
        return _listed(self.values.get(setting, ()))

    def _names(self, setting: str) -> list[str]:
        return [str(name) for name in self._items(setting)]

    def _check_names(self, setting: str, known: Sequence[str], what: str) -> None:
        wanted = self.values.get(setting)
        if isinstance(wanted, str):
            if any(re.fullmatch(wanted, name) for name in known):
                return
            problem = f"`{wanted}` matches no {what} of {self.model}"
            if any(ends_in(name, wanted) for name in known):
                hint = "a single text is a pattern for full names; give the end of a name in a list"
                raise MethodError(f"`{self.field}.{setting}`: {problem}", hint)
            raise self._error(setting, problem, known)
        named = self._names(setting)
        missing = [one for one in named if not any(ends_in(name, one) for name in known)]
        if missing:
            problem = f"{self.model} has no {what} {quoted(missing)}"
            raise self._error(setting, problem, known, missing[0])

    def _check_feedforward(self) -> None:
        wanted = self._names("feedforward_modules")
        pattern = isinstance(self.values.get("feedforward_modules"), str)
        targeted = _targeted(self.config, self.names) if wanted else []
        for one in wanted:
            alone: Any = copy.copy(self.config)
            alone.feedforward_modules = one if pattern else {one}
            if not any(IA3Model._check_target_module_feedforward(alone, name) for name in targeted):
                problem = f"`{one}` is not one of the adapted layers"
                raise self._error("feedforward_modules", problem, targeted, one)

    def _check_layers(self) -> None:
        wanted = self._items("layers_to_transform")
        if not wanted:
            return
        fit = _targeted(self.config, self.names, layers_to_transform=None)
        anywhere = _targeted(self.config, fit, layers_to_transform=ANY_BLOCK)
        always = _targeted(self.config, fit, layers_to_transform=[-1])
        if always := [name for name in always if has_block_number(name)]:
            raise MethodError(
                f"`{self.field}.layers_to_transform` has no effect on {quoted(always, 3)}, since "
                "`target_modules` gives full names",
                "give the ends of names in `target_modules`",
            )
        for one in self._names("layers_pattern"):
            if not _targeted(self.config, fit, layers_to_transform=ANY_BLOCK, layers_pattern=[one]):
                problem = f"`{one}` precedes no block's number in the names of the adapted layers"
                raise self._error("layers_pattern", problem, fit)
        in_block = {n: _targeted(self.config, anywhere, layers_to_transform=[n]) for n in wanted}
        if missing := [number for number, layers in in_block.items() if not layers]:
            raise MethodError(
                f"`{self.field}.layers_to_transform`: no layer to adapt is in block "
                f"{', '.join(map(repr, missing))}",
                f"{self.model} has such layers in {_blocks(self.config, anywhere)}",
            )
        self._check_targets_in_blocks()

    def _check_targets_in_blocks(self) -> None:
        """Raises MethodError if a target matches no layer in the blocks to adapt."""
        pattern = isinstance(self.values.get("target_modules"), str)
        adapted = _targeted(self.config, self.names, exclude_modules=None, modules_to_save=None)
        for one in () if pattern else self._names("target_modules"):
            if not any(ends_in(name, one) for name in adapted):
                problem = f"`{one}` is in none of the blocks of `layers_to_transform`"
                raise self._error("target_modules", problem, adapted)

    def check_pattern(self, setting: str, pattern: _LookupLog[object]) -> None:
        """Raises MethodError if a pattern has a key that PEFT looked up for no layer."""
        targets = getattr(self.config, "target_parameters", None) or ()
        adapted = _targeted(self.config, self.names)
        adapted += [p for p in self.parameters if any(ends_in(p, one) for one in targets)]
        keys_read = pattern.keys_read
        if self.config.peft_type == peft.PeftType.OSF:  # it searches the keys by itself
            keys_read = {next((k for k in pattern if re.search(k, n)), "") for n in adapted}
        for key in (key for key in pattern if key not in keys_read):
            if any(re.match(rf"(.*\.)?({key})$", name) for name in adapted):
                raise MethodError(
                    f"`{self.field}.{setting}`: `{key}` never counts, since a key before it "
                    "matches the same layers",
                    "put it first",
                )
            problem = f"`{key}` matches none of the {len(adapted)} adapted layers"
            raise self._error(setting, problem, adapted, key)

    def _error(
        self, setting: str, problem: str, known: Sequence[str], wrong: str = ""
    ) -> MethodError:
        hint = _nearest(wrong, known) or f"its names are, for example, {quoted(known[-2:])}"
        if wrong and any(ends_in(name, wrong) for name in self.names):
            hint = "the model has it, but `target_modules` does not; add it there, or remove it"
        return MethodError(f"`{self.field}.{setting}`: {problem}", hint)


def _listed(value: object) -> list[object]:
    """Returns a collection's items (a table's keys) as a list; any other value as its only item."""
    return list(value) if isinstance(value, Collection) and not isinstance(value, str) else [value]


def _targeted(config: Any, names: Iterable[str], **changes: Any) -> list[str]:
    """Returns the names of the modules that PEFT would adapt if `config` had these changes."""
    changed = copy.copy(config)
    for name, value in changes.items():
        if hasattr(changed, name):
            setattr(changed, name, value)
    return [name for name in names if check_target_module_exists(changed, name)]


def _blocks(config: Any, names: Sequence[str]) -> str:
    """Returns the range of blocks that contain any of the named layers, such as `0 to 11`."""
    numbers = sorted({int(part) for name in names for part in name.split(".") if part.isdigit()})
    blocks = [n for n in numbers if _targeted(config, names, layers_to_transform=[n])]
    return f"{blocks[0]} to {blocks[-1]}" if blocks else "none"


def _nearest(wrong: str, known: Sequence[str]) -> str:
    """Returns a `did you mean` hint with the most similar of all ends of known names."""
    parts = wrong.count(".") + 1
    ends = {".".join(name.split(".")[-parts:]) for name in known}
    return did_you_mean(wrong, ends) if wrong else ""
