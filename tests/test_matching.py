"""A setting that names modules names one, or `peftkit check` says which does not."""

from __future__ import annotations

import json
import re
import warnings

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

import peftkit as pk
from peftkit.cli.main import command_line
from peftkit.errors import MethodError
from peftkit.methods.peft.layers import lora_layers
from peftkit.stages.preparing import prepare
from tests.test_fast_paths import TINY, setting

LORA = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "v_proj"]}
"""Of which the rest of the settings is varied."""


def shapes() -> torch.nn.Module:
    """A Llama of three blocks without values."""
    with torch.device("meta"):
        config = transformers.LlamaConfig(**{**TINY, "num_key_value_heads": 2})
        return transformers.AutoModelForCausalLM.from_config(config)


def inject(method: pk.Method) -> torch.nn.Module:
    _, encoded = setting("llama", "AutoModelForCausalLM")
    return method.inject(shapes(), encoded, ())


NOTHING = {
    "a misspelled key": (
        {"rank_pattern": {"q_porj": 32}},
        "`method.config.rank_pattern`: `q_porj` matches none of the 6", "did you mean `q_proj`?",
    ),
    "one of several keys": (
        {"alpha_pattern": {"q_proj": 32, "v_porj": 1}}, "`v_porj` matches none", "`v_proj`?",
    ),
    "an anchor in the wrong place": (
        {"alpha_pattern": {"^q_proj": 100}}, "`^q_proj` matches none", "did you mean `q_proj`?",
    ),
    "a layer that is not adapted": (
        {"rank_pattern": {"k_proj": 2}}, "`k_proj` matches none", "`target_modules` does not",
    ),
    "a key after one that matches the same": (
        {"rank_pattern": {"q_proj": 2, "layers.0.self_attn.q_proj": 8}},
        "`layers.0.self_attn.q_proj` never counts", "put it first",
    ),
    "no regular expression": (
        {"rank_pattern": {"q_proj(": 2}}, "is not a regular expression", "",
    ),
    "no table": ({"rank_pattern": ["q_proj"]}, "is not a table of names and values", "q_proj"),
    "a misspelled exclusion": (
        {"exclude_modules": ["v_porj"]},
        "`method.config.exclude_modules`: LlamaForCausalLM has no module `v_porj`", "`v_proj`?",
    ),
    "one of several exclusions": (
        {"exclude_modules": ["v_proj", "k_porj"]}, "has no module `k_porj`", "`k_proj`?",
    ),
    "a name where a pattern is meant": (
        {"exclude_modules": "v_proj"}, "`v_proj` matches no module", "give the end of a name",
    ),
    "everything is excluded": (
        {"exclude_modules": ["q_proj", "v_proj"]}, "leaves nothing of", "from one of them",
    ),
    "a block that there is not": (
        {"layers_to_transform": [0, 7]},
        "`method.config.layers_to_transform`: no layer to adapt is in block 7", "in 0 to 2",
    ),
    "only blocks that there are not": ({"layers_to_transform": [9]}, "is in block 9", "0 to 2"),
    "a block counted from the end": ({"layers_to_transform": -1}, "is in block -1", "0 to 2"),
    "a list of blocks that there is not": (
        {"layers_to_transform": [0], "layers_pattern": ["layers", "layerz"]},
        "`method.config.layers_pattern`: `layerz` precedes no block's number in", "model.",
    ),
    "a full name and a number": (
        {"target_modules": ["model.layers.0.self_attn.q_proj"], "layers_to_transform": [1]},
        "has no effect on `model.layers.0.self_attn.q_proj`", "ends of names",
    ),
    "a misspelled parameter": (
        {"target_parameters": ["mlp.gate_porj.weight"]},
        "`method.config.target_parameters`: LlamaForCausalLM has no parameter", "gate_proj.weight",
    ),
    "a misspelled whole module": (
        {"modules_to_save": ["lm_haed"]}, "`method.config.modules_to_save`", "`lm_head`?",
    ),
    "a misspelled target": (
        {"target_modules": ["q_proj", "v_porj"]}, "is named `v_porj`", "`v_proj`?",
    ),
    "tokens of no module": (
        {"trainable_token_indices": {"embed_tokenz": [1]}}, "no module `embed_tokenz`", "_tokens`?",
    ),
    "a token beyond the embedding": (
        {"trainable_token_indices": [1, 80]},
        "80 is not a row of the embedding, which has 80", "ids",
    ),
    "copies of blocks that there are not": (
        {"layer_replication": [[0, 9]]}, "[0, 9] is not a span of the 3 blocks", "from 0 to 3",
    ),
    "settings of a start that is not chosen": (
        {"eva_config": {"rho": 2.0}}, "refuses it: `eva_config` specified but will be ignored", "",
    ),
    "feed-forward layers that are not adapted": (
        {"peft_type": "IA3", "target_modules": ".*(k|down)_proj",
         "feedforward_modules": ["down_proj", "up_proj"]},
        "`method.config.feedforward_modules`: `up_proj` is not one of the", "does not",
    ),
    **{
        f"{pattern} of {kind}": (
            {"peft_type": kind, **fields, pattern: {"q_porj": 8}},
            f"`method.config.{pattern}`: `q_porj` matches none", "`q_proj`?",
        )
        for kind, pattern, fields in (
            ("LOHA", "rank_pattern", {}), ("LOKR", "alpha_pattern", {}),
            ("DELORA", "lambda_pattern", {}), ("HIRA", "rank_pattern", {}),
            ("FOURIERFT", "n_frequency_pattern", {"n_frequency": 10}),
            ("WAVEFT", "n_frequency_pattern", {"n_frequency": 10}),
            ("C3A", "block_size_pattern", {"block_size": 8}), ("OSF", "rank_pattern", {}),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("case", NOTHING)
def test_a_setting_that_names_nothing_is_refused(case):
    fields, told, hint = NOTHING[case]
    config = {**LORA, **fields}
    if fields.get("peft_type", "LORA") not in ("LORA", "LOHA", "DELORA", "HIRA"):
        del config["r"]
    with pytest.raises(MethodError) as caught:
        inject(pk.PeftMethod(config=config))
    assert told in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "fields",
    [
        {"rank_pattern": {"layers.0.self_attn.q_proj": 8, "q_proj": 2}},
        {"exclude_modules": ".*1.*v_proj"}, {"exclude_modules": ["lm_head"]},
        {"layers_to_transform": [0, 2], "layers_pattern": "layers"}, {"layers_to_transform": 1},
        {"target_modules": ["q_proj", "lm_head"], "layers_to_transform": [1]},
        {"target_modules": [], "target_parameters": ["mlp.gate_proj.weight"]},
        {"peft_type": "LOKR", "alpha_pattern": {"q_proj": 2.0}, "rank_pattern": {"v_proj": 2}},
        {"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": ["k_proj"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_that_names_something_is_taken(fields):
    config = {**LORA, **fields}
    if fields.get("peft_type") == "IA3":
        del config["r"]
    injected = inject(pk.PeftMethod(config=config))
    for name in ("rank_pattern", "alpha_pattern"):
        assert type(getattr(injected.peft_config["default"], name, {})) is dict


ENDS = ("q_proj", "k_proj", "v_proj", "up_proj")
KEYS = st.sampled_from(
    [*ENDS, "self_attn.q_proj", "layers.0.self_attn.v_proj", r"layers\.[12]\..*proj", "mlp.up_proj",
     "(q|k)_proj", "q_porj", "proj", ".*", "layers.7.mlp.up_proj", "^k_proj", "lm_head"]
)  # fmt: skip


@given(
    keys=st.lists(KEYS, min_size=1, max_size=4, unique=True),
    targets=st.lists(st.sampled_from(ENDS), min_size=1, unique=True),
    through_peft=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_pattern_is_taken_if_each_key_gives_a_layer_its_rank(keys, targets, through_peft):
    """Beside PEFT alone: every key has a rank of its own, which some layer has, or none."""
    pattern = {key: 10 + number for number, key in enumerate(keys)}
    config = LoraConfig(r=4, target_modules=list(targets), rank_pattern=dict(pattern))
    by_peft = ranks(get_peft_model_quietly(config))
    method = pk.LoRA(r=4, target_modules=tuple(targets), rank_pattern=pattern)
    if through_peft:
        method = pk.PeftMethod(
            config={**LORA, "target_modules": list(targets), "rank_pattern": pattern}
        )
    if set(pattern.values()) <= set(by_peft.values()):
        assert ranks(inject(method)) == by_peft
    else:
        unused = next(key for key, rank in pattern.items() if rank not in by_peft.values())
        with pytest.raises(MethodError) as caught:
            inject(method)
        assert f"rank_pattern`: `{unused}`" in caught.value.message


def ranks(model):
    return {name: layer.r["default"] for name, layer in lora_layers(model).items()}


def get_peft_model_quietly(config):
    with warnings.catch_warnings():  # what PEFT says, and does not refuse
        warnings.simplefilter("ignore", RuntimeWarning)
        return get_peft_model(shapes(), config, low_cpu_mem_usage=True)


@given(
    blocks=st.lists(st.integers(-1, 4), min_size=1, max_size=3, unique=True),
    parents=st.lists(
        st.sampled_from(["layers", "h", "model.layers", "layer"]), max_size=2, unique=True
    ),
    exclude=st.lists(st.sampled_from(["v_proj", "k_porj", "mlp", "x"]), max_size=2, unique=True),
)
@settings(max_examples=60, deadline=None)
def test_blocks_and_exclusions_are_taken_if_each_is_there(blocks, parents, exclude):
    config = {**LORA, "layers_to_transform": blocks, "layers_pattern": parents,
              "exclude_modules": exclude}  # fmt: skip
    if not parents:
        del config["layers_pattern"]
    right = (
        all(0 <= block < 3 for block in blocks)
        and {"layers", "model.layers"}.issuperset(parents)
        and {"v_proj", "mlp"}.issuperset(exclude)
    )
    if not right:
        with pytest.raises(MethodError):
            inject(pk.PeftMethod(config=config))
        return
    kept = {"q_proj", "v_proj"} - set(exclude)
    assert set(lora_layers(inject(pk.PeftMethod(config=config)))) == {
        f"model.layers.{block}.self_attn.{name}" for block in blocks for name in kept
    }


@pytest.mark.filterwarnings("error")
def test_check_says_so_with_exit_code_2_and_nothing_else(make_recipe, tmp_path, capsys):
    method = pk.PeftMethod(config={**LORA, "rank_pattern": {"q_porj": 32}})
    recipe = make_recipe(method, base="llama")
    file = tmp_path / "recipe.json"
    file.write_text(recipe.to_json())
    with pytest.raises(SystemExit) as left:
        command_line(["check", str(file)])
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert "error: `method.config.rank_pattern`: `q_porj` matches none of the 4 adapted" in told
    assert "hint: did you mean `q_proj`?" in told
    assert "Warning" not in told


def test_the_recipe_refuses_what_needs_no_model():
    for fields, told in (
        ({"layers_pattern": "layers"}, "is for `layers_to_transform`"),
        ({"target_modules": ".*q_proj", "layers_to_transform": [1]}, "into the pattern `.*q_proj`"),
        ({"rank_pattern": {"(": 3}}, "`(` is not a regular expression"),
        ({"rank_pattern": {"q_proj": 0}}, "greater than or equal to 1"),
        ({"layers_to_transform": [-1]}, "greater than or equal to 0"),
    ):
        with pytest.raises(ValueError, match=re.escape(told)):
            pk.LoRA(**fields)
    with pytest.raises(ValueError, match="EVA chooses each layer's rank from the data"):
        pk.EVA(rank_pattern={"q_proj": 3})


def test_prepare_counts_the_ranks_of_a_pattern(make_recipe):
    method = pk.LoRA(r=4, target_modules=("q_proj", "v_proj"), rank_pattern={"q_proj": 32},
                     alpha_pattern={"q_proj": 64})  # fmt: skip
    found = prepare(make_recipe(method, base="llama")).trainable_parameters
    head, query, value = 2 * 64, 2 * (64 + 64) * 32, 2 * (64 + 32) * 4
    assert found == head + query + value
    assert json.loads(make_recipe(method).to_json())["method"]["rank_pattern"] == {"q_proj": 32}
