"""Fields of an adapter_config.json that decide what an adapter adds: told where they are missing,
and completed by a person.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import peftkit as pk
from peftkit.adapters.inspection.inspecting import inspect
from peftkit.adapters.inspection.settings import (
    DECIDING,
    HIDDEN,
    OTHER_BEFORE,
    SINCE,
    of_earlier_peft,
    parse_settings,
    saved_by,
    since,
)
from peftkit.cli.main import command_line
from peftkit.errors import AdapterError, RecipeError
from peftkit.run import run

FIELDS = [(kind, name) for kind, names in DECIDING.items() for name in names]
VALUES: dict[str, Any] = {
    "target_modules": ["q_proj"], "feedforward_modules": [], "token_indices": [3],
    "sparse": False, "very_sparse": False, "apply_GS": False, "wavelet_family": "db1",
    "act_fn": "relu", "variant": "road_1", "placement": "pfeiffer", "non_linearity": "relu",
    "ln_before": False, "init_weights": True,
}  # fmt: skip
"""Of some fields, a value that PEFT takes; 4 for the others."""


def value_of(name: str) -> Any:
    return VALUES.get(name, 4)


def folder_of(folder: Path, config: dict[str, Any]) -> str:
    """A folder of PEFT's with a tensor; nothing but its bytes is looked at."""
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({"base_model.model.x.weight": np.ones(2)}, folder / "adapter_model.safetensors")
    return str(folder)


def whole(kind: str) -> dict[str, Any]:
    return {"peft_type": kind, **{name: value_of(name) for name in DECIDING[kind]}}


@given(st.sampled_from(FIELDS), st.booleans())
def test_a_field_that_decides_is_told_where_it_is_missing_or_null(field, null):
    kind, name = field
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        assert inspect(folder_of(folder, whole(kind))).passed
        config = whole(kind)
        del config[name]
        path = folder_of(folder, {**config, **({name: None} if null else {})})
        found = inspect(path)
        (problem,) = found.findings.problems
        assert f"`{name}`" in problem.found
        assert f"`--adapter-setting {name}=VALUE`" in problem.advice
        with pytest.raises(AdapterError, match=f"`{name}`"):
            found.raise_if_wrong()
        completed = inspect(path, {name: value_of(name)})
        assert completed.passed
        assert completed.config == {**config, name: value_of(name)}
        assert json.loads((folder / "adapter_config.json").read_text()).get(name) is None
        notes = [f.found for f in completed.findings.all if f.result == "note"]
        assert any(f"`{name}` is" in note for note in notes)


def test_the_fields_are_those_of_peft_s_types_and_no_type_is_left_out():
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    import peftkit.peft_plugin  # noqa: F401
    from peftkit.adapters.published.unsupported import NOT_LOADED

    kinds = {str(getattr(k, "value", k)): v for k, v in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    for kind, names in DECIDING.items():
        assert set(names) <= {field.name for field in dataclasses.fields(kinds[kind])}, kind
    assert kinds.keys() - NOT_LOADED.keys() == DECIDING.keys()


def test_target_parameters_need_no_modules(tmp_path):
    changed = {"target_modules": None, "target_parameters": ["mlp.up.weight"]}
    config = {**of_peft("LORA"), **changed}
    assert inspect(folder_of(tmp_path, config)).passed


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("lora_alpha", "is not NAME=VALUE"), ("lora_alpha=", "is not NAME=VALUE"),
        ("=3", "is not NAME=VALUE"), ("lora_alpah=3", "have no field `lora_alpah`"),
        ("r=8", "gives 8, and adapter_config.json has 4"), ("lora_alpha=null", "gives no value"),
        ("alpha=3", "have no field `alpha`"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_given_are_told(tmp_path, given, told):
    path = folder_of(tmp_path, {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]})
    with pytest.raises(RecipeError) as caught:
        inspect(path, parse_settings([given]))
    assert told in caught.value.message
    assert caught.value.exit_code == 2


def test_a_setting_given_twice_and_of_an_odd_value_is_told(tmp_path):
    with pytest.raises(RecipeError, match="gives `r` twice"):
        parse_settings(["r=4", "r=8"])
    path = folder_of(tmp_path, {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]})
    for value in ("abc", "[1]", "1e400"):
        (problem, *_) = inspect(path, parse_settings([f"lora_alpha={value}"])).findings.problems
        assert "`lora_alpha` is" in problem.found
    assert inspect(path, {"lora_alpha": 4, "r": 4}).passed  # what the file has may be given too


def test_values_are_json_or_text():
    found = parse_settings(['target_modules=["q", "v"]', "bias=none", "r = 4", "use_dora=true"])
    assert found == {"target_modules": ["q", "v"], "bias": "none", "r": 4, "use_dora": True}


def test_a_missing_type_is_completed_too(tmp_path):
    config = whole("LORA")
    del config["peft_type"]
    path = folder_of(tmp_path, config)
    (problem,) = inspect(path).findings.problems
    assert "`--adapter-setting peft_type=LORA`" in problem.advice
    assert inspect(path, {"peft_type": "LORA"}).passed


@pytest.fixture(scope="module")
def trained(tmp_path_factory, chat_base):
    """A LoRA of plain PEFT with `lora_alpha=32`, and the same without the field; and what the first
    puts out.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, lora_alpha=32, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(chat_base), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.1)
    model.save_pretrained(folder / "whole")
    shutil.copytree(folder / "whole", folder / "less")
    file = folder / "less" / "adapter_config.json"
    left = {n: v for n, v in json.loads(file.read_text()).items() if n != "lora_alpha"}
    file.write_text(json.dumps(left))
    return folder, outputs(model.eval())


def outputs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 9, 11, 14, 30]])).logits


def test_an_adapter_is_loaded_with_what_was_given_and_no_otherwise(trained, chat_base):
    folder, expected = trained
    less = str(folder / "less")
    with pytest.raises(AdapterError, match="`lora_alpha` is not in adapter_config"):
        pk.load(less, str(chat_base))
    adapter = pk.load(less, str(chat_base), {"lora_alpha": 32})
    assert (outputs(adapter.model) - expected).abs().max() < 1e-6
    weaker = pk.load(less, str(chat_base), {"lora_alpha": 8})
    assert (outputs(weaker.model) - expected).abs().max() > 1e-3


def test_the_commands_take_it(trained, chat_base, tmp_path, capsys):
    folder, expected = trained
    less, base = str(folder / "less"), ["--base", str(chat_base)]
    setting = ["--adapter-setting", "lora_alpha=32"]
    with pytest.raises(SystemExit) as caught:
        command_line(["verify", less, *base])
    assert caught.value.code == 1
    command_line(["verify", less, *base, *setting])
    said = " ".join(capsys.readouterr().out.split())
    assert "`lora_alpha` is 32, as `--adapter-setting` gives it" in said
    with pytest.raises(SystemExit) as caught:
        command_line(["merge", less, *base, "--output", str(tmp_path / "no")])
    assert caught.value.code == 2
    merged = tmp_path / "merged"
    command_line(["merge", less, *base, *setting, "--output", str(merged)])
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(merged).eval()
    assert (outputs(model) - expected).abs().max() < 1e-4
    command_line(["export", less, *base, *setting, "--to", "peft", "--output", str(tmp_path / "p")])
    written = json.loads((tmp_path / "p" / "adapter_config.json").read_text())
    assert written["lora_alpha"] / written["r"] == 8
    command_line(["chat", less, *base, *setting, "--once", "Where is it?"])
    command_line(["predict", less, *base, *setting, "--text", "Where is it?", "--json"])
    assert (
        json.loads((folder / "less" / "adapter_config.json").read_text()).get("lora_alpha") is None
    )


def test_peftkit_s_own_adapters_and_a_start_need_none(make_chat, trained, tmp_path):
    folder, _ = trained
    recipe = make_chat(pk.LoRA(r=4, target_modules=("q_proj", "v_proj")), max_steps=1)
    with pytest.raises(AdapterError, match="`lora_alpha` is not in"):
        run(recipe.with_(start_from=str(folder / "less")), str(tmp_path / "run"))
    done = run(recipe, str(tmp_path / "own"))
    with pytest.raises(RecipeError, match="peftkit saved `"):
        inspect(str(done.folder), {"lora_alpha": 8})


def of_peft(kind: str) -> dict[str, Any]:
    """All that this PEFT writes for a type."""
    import peft

    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)](
        **{
            **{name: value_of(name) for name in DECIDING[kind]},
            **({"r": 0, "oft_block_size": 4} if kind == "OFT" else {}),
        }
    )
    saved = json.loads(json.dumps(config.to_dict(), default=list))
    saved.pop("runtime_config", None)
    return saved


HIDDEN_FIELDS = [(kind, name) for kind, names in HIDDEN.items() for name in names]


@pytest.mark.parametrize("with_version", [True, False])
@pytest.mark.parametrize(("kind", "name"), HIDDEN_FIELDS)
def test_a_field_that_no_tensor_shows_is_wanted_of_recent_pefts(tmp_path, kind, name, with_version):
    config = of_peft(kind)
    assert inspect(folder_of(tmp_path, config)).passed
    value = config.pop(name)
    if not with_version:
        del config["peft_version"]
    found = inspect(folder_of(tmp_path, config))
    told = [problem.found for problem in found.findings.problems]
    earlier = since(kind, name) >= saved_by(config) and name not in OTHER_BEFORE.get(kind, ())
    if not with_version and earlier:
        assert told == []  # an earlier PEFT may have saved it
        return
    assert told == [f"`{name}` is not in adapter_config.json"]
    assert inspect(str(tmp_path), {name: value}).passed


@given(st.sampled_from(sorted(set(SINCE.values()))))
def test_what_an_earlier_peft_saved_needs_nothing_of_later_ones(version):
    config = of_peft("LORA")
    kept = {name: value for name, value in config.items() if since("LORA", name) <= version}
    if "peft_version" in kept:
        kept["peft_version"] = f"{version[0]}.{version[1]}.0"
    with tempfile.TemporaryDirectory() as place:
        assert inspect(folder_of(Path(place), kept)).passed
    if missing := sorted(config.keys() - kept.keys()):
        assert of_earlier_peft(kept, missing)
    if missing := [name for name in missing if name != "kasa_config"]:
        assert not of_earlier_peft({**kept, "kasa_config": None}, missing)


def test_an_oft_of_peft_0_15_has_its_own_way_to_compute(tmp_path):
    config = of_peft("OFT")
    for name in ("peft_version", "use_cayley_neumann", "num_cayley_neumann_terms"):
        del config[name]
    (problem,) = inspect(folder_of(tmp_path, config)).findings.problems
    assert "before 0.16" in problem.meaning
    assert "use_cayley_neumann=false" in problem.advice
    assert inspect(str(tmp_path), parse_settings(["use_cayley_neumann=false"])).passed


def test_no_fields_of_peft_s_types_came_later_than_is_known():
    """Those of this PEFT that are in the table of versions are fields of its types."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {f.name for c in PEFT_TYPE_TO_CONFIG_MAPPING.values() for f in dataclasses.fields(c)}
    assert SINCE.keys() <= known
    assert {name for names in HIDDEN.values() for name in names} <= known


def test_a_null_can_be_given_where_it_is_what_peft_writes(tmp_path):
    config = of_peft("LORA")
    del config["alora_invocation_tokens"]
    path = folder_of(tmp_path, config)
    assert not inspect(path).passed
    assert inspect(path, parse_settings(["alora_invocation_tokens=null"])).passed
