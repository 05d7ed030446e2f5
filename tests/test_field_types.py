"""Values of another type than PEFT declares are told by their field; what PEFT writes is not."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import types
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

import peftkit.peft_plugin  # noqa: F401  # bottleneck adapters are among the types
from peftkit.adapters.inspection.inspecting import inspect
from peftkit.adapters.inspection.settings import parse_settings
from peftkit.methods.peft.field_types import KINDS, NOT_NULL, wrong_types
from tests.test_adapter_settings import folder_of, of_peft

TYPES = {str(getattr(k, "value", k)): c for k, c in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
TOLD_ELSEWHERE = {"peft_type", "task_type", "base_model_name_or_path", "runtime_config"}
SAMPLES: dict[str, Any] = {
    "flag": True, "number": 4, "text": "road_1", "list": ["q_proj"], "table": {"q_proj": 4},
}  # fmt: skip


def declared(hint: Any) -> set[str]:
    """The kinds of JSON that a type of Python stands for."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return set().union(*map(declared, typing.get_args(hint)))
    if origin is typing.Literal:
        return {kind for value in typing.get_args(hint) for kind in declared(type(value))}
    if hint is type(None):
        return set()
    if hint is bool or hint in (int, float):
        return {"flag" if hint is bool else "number"}
    if isinstance(hint, type) and issubclass(hint, str):
        return {"text"}
    return {"list"} if (origin or hint) in (list, tuple, set) else {"table"}


def test_every_field_is_checked_for_what_peft_declares():
    found: dict[str, set[str]] = {}
    for config in TYPES.values():
        hints = typing.get_type_hints(config)
        for field in dataclasses.fields(config):
            found.setdefault(field.name, set()).update(declared(hints[field.name]))
    assert {n: set(kinds) for n, kinds in KINDS.items()} == {
        n: kinds for n, kinds in found.items() if n not in TOLD_ELSEWHERE
    }


def test_what_peft_writes_by_default_is_of_the_right_types():
    for kind, config in TYPES.items():
        fields = dataclasses.fields(config)
        values = {
            f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
            for f in fields
        }
        saved = json.loads(json.dumps(values, default=lambda v: getattr(v, "__dict__", list)))
        assert list(wrong_types({**saved, "peft_type": kind})) == []


@given(st.sampled_from(sorted(KINDS)), st.sampled_from(sorted(SAMPLES)))
def test_a_value_of_another_kind_is_told_by_its_field(name, kind):
    value = SAMPLES[kind]
    fits = kind in KINDS[name] or (kind == "flag" and "number" in KINDS[name])
    with tempfile.TemporaryDirectory() as place:
        config = {**of_peft("LORA"), name: value}
        if name in ("peft_version", "megatron_core", "auto_mapping"):
            return  # whose values say more than their types
        told = [p.found for p in inspect(folder_of(Path(place), config)).findings.problems]
    if not fits:
        assert any(f"`{name}`" in one for one in told)
    elif name.startswith("use_") and name != "use_bdlora":
        assert told == []


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("use_rslora", "false", "`use_rslora` is the text 'false', not true or false"),
        ("lora_alpha", "12", "`lora_alpha` is the text '12', and must be a number"),
        ("r", "4", "`r` is the text '4', and must be a whole number"),
        ("lora_dropout", "0.1", "`lora_dropout` is the text '0.1', not a number"),
        ("target_modules", ["q_proj", 5], "`target_modules` holds 5, not a text"),
        ("rank_pattern", None, "`rank_pattern` is null"),
        ("alpha_pattern", None, "`alpha_pattern` is null"),
        ("use_dora", 2, "`use_dora` is 2, not true or false"),
    ],
)
def test_it_is_told_as_it_is(tmp_path, name, value, told):
    path = folder_of(tmp_path, {**of_peft("LORA"), name: value})
    (problem,) = inspect(path).findings.problems
    assert told in problem.found


@given(st.sampled_from([(k, n) for k, names in NOT_NULL.items() for n in names]))
def test_a_null_that_peft_cannot_read_is_completed(field):
    kind, name = field
    config = {**of_peft(kind), name: None}
    with tempfile.TemporaryDirectory() as place:
        path = folder_of(Path(place), config)
        (problem,) = inspect(path).findings.problems
        assert problem.found.startswith(f"`{name}` is null")
        setting = problem.advice.split("--adapter-setting ")[1].rstrip("`")
        assert inspect(path, parse_settings([setting])).passed


def test_nulls_that_peft_reads_and_numbers_for_flags_pass(tmp_path):
    config = {**of_peft("LORA"), "use_rslora": 1, "fan_in_fan_out": None, "use_dora": 0}
    assert inspect(folder_of(tmp_path, config)).passed
    adalora = {"peft_type": "ADALORA", "init_r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    adalora |= {"rank_pattern": None}
    assert inspect(folder_of(tmp_path, adalora)).passed
