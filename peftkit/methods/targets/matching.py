"""Checks that PEFT's settings that name modules match some.

PEFT ignores a name that matches nothing, or only warns. PEFT's own functions decide what matches;
for the patterns (`rank_pattern` and the like), the keys that PEFT looks up decide.
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
from peftkit.methods.peft.pattern_order import free_of_order
from peftkit.methods.peft.types import kind_of
from peftkit.methods.targets.layers import ends_in, last_names, linear_names
from peftkit.methods.targets.targets import names_a_block, wrong_expression

ANY_BLOCK = range(10**6)
ValueT = TypeVar("ValueT")


class _LookedUp(dict[str, ValueT]):
    """A dictionary that records which keys are looked up."""

    def __init__(self, *items: Any) -> None:
        super().__init__(*items)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """As of any dictionary."""
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> ValueT:
        self.asked.add(key)
        return super().__getitem__(key)


def inject_checked(
    model: nn.Module, config: peft.PeftConfig, given: Mapping[str, object], field: str = "method"
) -> nn.Module:
    """As `inject_peft`, with a check of the user's own settings.

    Args:
        given: field of the configuration -> the user's value; empty ones are ignored.
        field: where they are in the recipe, for messages.

    Raises:
        MethodError: a setting matches nothing, or PEFT cannot adapt the model.
    """
    given = {name: value for name, value in given.items() if value not in (None, "", {}, [], ())}
    patterns = {
        name: _looked_up(value, f"{field}.{name}")
        for name, value in given.items()
        if name.endswith("_pattern") and name != "layers_pattern"
    }
    for name, pattern in patterns.items():
        setattr(config, name, pattern)
    settings = _Settings(model, config, given, field)
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
        if getattr(config, name) is pattern:  # else PEFT has put another in its place
            settings.check_pattern(name, pattern)
            layers, kind = _adapted(injected), kind_of(config)
            setattr(config, name, free_of_order(pattern, layers, kind, f"{field}.{name}"))
    return injected


def _check_called(injected: Any, fitting: list[str], field: str) -> None:
    """Raises MethodError if the architecture does not call one of the adapted layers.

    Args:
        fitting: last names of the layers that can be adapted.
    """
    model = injected.get_base_model()
    for name in getattr(injected.base_model, "targeted_module_names", ()):
        if name.rsplit(".", 1)[-1] in NOT_CALLED.get(model.config.model_type, ()):
            layer = model.get_submodule(name)
            if not is_quantized(getattr(layer, "base_layer", layer)):  # those are called
                raise MethodError(
                    f"`{field}`: {type(model).__name__} computes with the weight of `{name}` "
                    "itself, so that what adapts that layer has no effect",
                    f"adapt layers that it calls: {quoted(fitting)}",
                )


def _adapted(injected: Any) -> list[str]:
    """Names of what PEFT has adapted, as it gives them to patterns."""
    tuner = injected.base_model
    return [*tuner.targeted_module_names, *tuner.targeted_parameter_names]


def _looked_up(value: object, field: str) -> _LookedUp[object]:
    if not isinstance(value, Mapping):
        raise MethodError(f"`{field}` is no table of names and values", 'write `{"q_proj": 32}`')
    if wrong := wrong_expression(value):
        hint = "put a backslash before characters that are meant literally"
        raise MethodError(f"`{field}`: {wrong}", hint)
    return _LookedUp(value)


class _Settings:
    """The user's settings in a configuration.

    Args:
        model: before injection.
        config: PEFT completes it, and rewrites names in it, during injection.
    """

    def __init__(
        self, model: nn.Module, config: peft.PeftConfig, given: Mapping[str, object], field: str
    ) -> None:
        self.model, self.config, self.given, self.field = type(model).__name__, config, given, field
        self.names = [name for name, _ in model.named_modules() if name]
        self.parameters = [name for name, _ in model.named_parameters()]

    def check_model(self, model: Any) -> None:
        """Raises MethodError if a setting names rows or blocks that the model does not have."""
        tokens = self._items("trainable_token_indices")
        if isinstance(of_modules := self.given.get("trainable_token_indices"), Mapping):
            self._check_names("trainable_token_indices", self.names, "module")
            tokens = [token for ids in of_modules.values() for token in _listed(ids)]
        rows = model.get_input_embeddings().weight.shape[0]
        invoking = self._items("alora_invocation_tokens")
        for name, ids in (
            ("trainable_token_indices", tokens),
            ("alora_invocation_tokens", invoking),
        ):
            if beyond := [token for token in ids if token not in range(rows)]:
                raise MethodError(
                    f"`{self.field}.{name}`: {beyond[0]!r} is no row of the embedding, which has "
                    f"{rows}",
                    "give ids of the tokenizer's tokens",
                )
        copied = self._items("layer_replication")
        depth = max((len(blocks) for _, blocks in stacks(model)), default=0)
        spans = [list(span) for span in itertools.combinations(range(depth + 1), 2)]
        if wrong := [span for span in copied if _listed(span) not in spans]:
            raise MethodError(
                f"`{self.field}.layer_replication`: {wrong[0]} is no span of the {depth} blocks of "
                f"{self.model}",
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
        """The values of a setting, of a table the keys; none if it is not given."""
        return _listed(self.given.get(setting, ()))

    def _names(self, setting: str) -> list[str]:
        return [str(name) for name in self._items(setting)]

    def _check_names(self, setting: str, known: Sequence[str], what: str) -> None:
        wanted = self.given.get(setting)
        if isinstance(wanted, str):
            if any(re.fullmatch(wanted, name) for name in known):
                return
            told = f"`{wanted}` matches no {what} of {self.model}"
            if any(ends_in(name, wanted) for name in known):
                hint = "a single text is a pattern for full names; give the end of a name in a list"
                raise MethodError(f"`{self.field}.{setting}`: {told}", hint)
            raise self._error(setting, told, known)
        named = self._names(setting)
        missing = [one for one in named if not any(ends_in(name, one) for name in known)]
        if missing:
            told = f"{self.model} has no {what} {quoted(missing)}"
            raise self._error(setting, told, known, missing[0])

    def _check_feedforward(self) -> None:
        wanted = self._names("feedforward_modules")
        pattern = isinstance(self.given.get("feedforward_modules"), str)
        targeted = _targeted(self.config, self.names) if wanted else []
        for one in wanted:
            asked: Any = copy.copy(self.config)
            asked.feedforward_modules = one if pattern else {one}
            if not any(IA3Model._check_target_module_feedforward(asked, name) for name in targeted):
                told = f"`{one}` is none of the layers that are adapted"
                raise self._error("feedforward_modules", told, targeted, one)

    def _check_layers(self) -> None:
        wanted = self._items("layers_to_transform")
        if not wanted:
            return
        fit = _targeted(self.config, self.names, layers_to_transform=None)
        anywhere = _targeted(self.config, fit, layers_to_transform=ANY_BLOCK)
        always = _targeted(self.config, fit, layers_to_transform=[-1])
        if always := [name for name in always if names_a_block(name)]:
            raise MethodError(
                f"`{self.field}.layers_to_transform`: PEFT adapts {quoted(always, 3)} in any case, "
                "since `target_modules` has the full name",
                "give the ends of names in `target_modules`",
            )
        for one in self._names("layers_pattern"):
            if not _targeted(self.config, fit, layers_to_transform=ANY_BLOCK, layers_pattern=[one]):
                told = f"`{one}` comes before the number of a block in no adapted layer's name"
                raise self._error("layers_pattern", told, fit)
        found = {n: _targeted(self.config, anywhere, layers_to_transform=[n]) for n in wanted}
        if missing := [number for number, layers in found.items() if not layers]:
            raise MethodError(
                f"`{self.field}.layers_to_transform`: no layer to adapt is in block "
                f"{', '.join(map(repr, missing))}",
                f"{self.model} has such layers in {_blocks(self.config, anywhere)}",
            )
        self._check_targets_in_blocks()

    def _check_targets_in_blocks(self) -> None:
        """Raises MethodError if one of several targets is in none of the given blocks."""
        pattern = isinstance(self.given.get("target_modules"), str)
        adapted = _targeted(self.config, self.names, exclude_modules=None, modules_to_save=None)
        for one in () if pattern else self._names("target_modules"):
            if not any(ends_in(name, one) for name in adapted):
                told = f"`{one}` is in none of the blocks of `layers_to_transform`"
                raise self._error("target_modules", told, adapted)

    def check_pattern(self, setting: str, pattern: _LookedUp[object]) -> None:
        """Raises MethodError if PEFT looked up a key for no layer."""
        targets = getattr(self.config, "target_parameters", None) or ()
        adapted = _targeted(self.config, self.names)
        adapted += [p for p in self.parameters if any(ends_in(p, one) for one in targets)]
        asked = pattern.asked
        if self.config.peft_type == peft.PeftType.OSF:  # it searches the keys by itself
            asked = {next((k for k in pattern if re.search(k, n)), "") for n in adapted}
        for key in (key for key in pattern if key not in asked):
            if any(re.match(rf"(.*\.)?({key})$", name) for name in adapted):
                raise MethodError(
                    f"`{self.field}.{setting}`: `{key}` never counts, since a key before it "
                    "matches the same layers",
                    "put it first",
                )
            told = f"`{key}` matches none of the {len(adapted)} adapted layers"
            raise self._error(setting, told, adapted, key)

    def _error(self, setting: str, told: str, known: Sequence[str], wrong: str = "") -> MethodError:
        hint = _nearest(wrong, known) or f"names there are, for example, {quoted(known[-2:])}"
        if wrong and any(ends_in(name, wrong) for name in self.names):
            hint = "the model has it, but `target_modules` does not; add it there, or take it out"
        return MethodError(f"`{self.field}.{setting}`: {told}", hint)


def _listed(value: object) -> list[object]:
    """A list, tuple or table as a list; anything else as its only item."""
    return list(value) if isinstance(value, Collection) and not isinstance(value, str) else [value]


def _targeted(config: Any, names: Iterable[str], **changes: Any) -> list[str]:
    """Those of the names that PEFT would adapt, with some settings changed."""
    asked = copy.copy(config)
    for name, value in changes.items():
        if hasattr(asked, name):
            setattr(asked, name, value)
    return [name for name in names if check_target_module_exists(asked, name)]


def _blocks(config: Any, names: Sequence[str]) -> str:
    """`0 to 11`: the first and the last block with some layers."""
    numbers = sorted({int(part) for name in names for part in name.split(".") if part.isdigit()})
    found = [n for n in numbers if _targeted(config, names, layers_to_transform=[n])]
    return f"{found[0]} to {found[-1]}" if found else "none"


def _nearest(wrong: str, known: Sequence[str]) -> str:
    """`did you mean`, among ends of names with as many parts."""
    parts = wrong.count(".") + 1
    ends = {".".join(name.split(".")[-parts:]) for name in known}
    return did_you_mean(wrong, ends) if wrong else ""
