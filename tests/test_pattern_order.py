"""What a pattern gives each layer is the same after saving, which sorts its keys."""

from __future__ import annotations

import copy
import json
import tempfile
import warnings
from pathlib import Path

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import peftkit as pk
from peftkit.adapters.verifying import verify
from peftkit.errors import AdapterError
from peftkit.methods.peft.layers import lora_layers
from peftkit.methods.peft.pattern_order import lookup_of, order_free, values_of
from tests.test_fast_paths import model_of, setting

IDS = torch.arange(5, 25)[None]
KEYS = (
    "q_proj", "self_attn.*", ".*_proj", r"self_attn\.[qv]_proj", r"layers\.0\..*", ".*",
    r"layers\.[12]\.mlp\.down_proj", "down_proj", r"^model\.layers\.1\.self_attn\.k_proj",
    "mlp.(up|down)_proj",
)  # fmt: skip
RANKS = st.lists(st.tuples(st.sampled_from(KEYS), st.integers(1, 6)), max_size=4)
ALPHAS = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from((1.0, 8.0, 70.0))), max_size=4)
LLAMA, ENCODED = setting("llama", "AutoModelForCausalLM")


def injected(method: pk.Method) -> torch.nn.Module:
    """A tiny Llama with a method whose B are no zeros."""
    model = method.inject(copy.deepcopy(LLAMA), ENCODED, ())
    torch.manual_seed(1)
    for layer in lora_layers(model).values():
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.05)
    return model.eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def sizes(model: torch.nn.Module) -> dict[str, tuple[int, float]]:
    """Layer -> its rank and its scale."""
    layers = lora_layers(model).items()
    return {name: (layer.r["default"], layer.scaling["default"]) for name, layer in layers}


def plainly_loaded(folder: str) -> torch.nn.Module:
    """By PEFT alone."""
    with warnings.catch_warnings():  # PEFT's use of transformers
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return peft.PeftModel.from_pretrained(copy.deepcopy(LLAMA), folder).eval()


def usable(method: pk.LoRA) -> bool:
    """Whether none of its keys is one that never counts, which is refused."""
    try:
        method.inject(copy.deepcopy(LLAMA), ENCODED, ())
    except pk.PeftkitError as error:
        return "never counts" not in error.message
    return True


@settings(max_examples=40, deadline=None)
@given(RANKS, ALPHAS, st.booleans())
def test_any_patterns_are_the_same_when_plain_peft_has_loaded_them(ranks, alphas, rslora):
    method = pk.LoRA(
        r=3, rank_pattern=dict(ranks), alpha_pattern=dict(alphas), use_rslora=rslora
    )  # fmt: skip
    if not usable(method):
        return
    model = injected(method)
    with tempfile.TemporaryDirectory() as folder:
        method.save(model, Path(folder))
        loaded = plainly_loaded(folder)
    assert sizes(loaded) == sizes(model)
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [pk.LoRA, pk.DoRA, pk.PiSSA])
def test_the_first_key_counts_and_is_kept_for_each_layer(kind, tmp_path):
    method = kind(r=4, alpha_pattern={"self_attn.*": 2, ".*_proj": 70})
    model = injected(method)
    for name, layer in lora_layers(model).items():
        assert layer.scaling["default"] == (2 if "self_attn" in name else 70) / 4
    method.save(model, tmp_path)
    torch.testing.assert_close(logits(plainly_loaded(str(tmp_path))), logits(model))


def test_patterns_that_sorting_does_not_change_are_saved_as_they_are(tmp_path):
    pattern = {"down_proj": 5, "q_proj": 7, "self_attn.*": 2}  # sorted, though two overlap
    model = injected(pk.LoRA(r=4, rank_pattern=pattern, alpha_pattern={"v_proj": 3, "k_proj": 4}))
    pk.LoRA().save(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["rank_pattern"] == pattern
    assert config["alpha_pattern"] == {"v_proj": 3, "k_proj": 4}


@pytest.mark.parametrize(
    ("kind", "setting_name", "fields"),
    [
        ("LOHA", "rank_pattern", {"r": 4}), ("LOKR", "alpha_pattern", {"r": 4}),
        ("HIRA", "rank_pattern", {"r": 4}), ("DELORA", "lambda_pattern", {"r": 4}),
        ("FOURIERFT", "n_frequency_pattern", {"n_frequency": 9}),
        ("WAVEFT", "n_frequency_pattern", {"n_frequency": 9}),
        ("C3A", "block_size_pattern", {"block_size": 8}), ("OSF", "rank_pattern", {}),
    ],
)  # fmt: skip
def test_other_tuners_of_peft_keep_their_patterns_too(kind, setting_name, fields):
    values = (8, 4) if kind == "C3A" else (6, 2)
    pattern = dict(zip(("v_proj", "(q|v)_proj"), values, strict=True))
    config = {"peft_type": kind, "target_modules": ["q_proj", "v_proj"], **fields}
    method = pk.PeftMethod(config={**config, setting_name: pattern})
    live = method.inject(model_of("llama", "AutoModelForCausalLM"), ENCODED, ()).peft_config
    saved = getattr(live["default"], setting_name)
    layers = [f"model.layers.{n}.self_attn.{p}_proj" for n in range(3) for p in "qv"]
    expected = {name: values[name.endswith("q_proj")] for name in layers}
    assert values_of(saved, sorted(saved), layers, lookup_of(kind)) == expected


@given(st.lists(st.text("ab.+[", min_size=1, max_size=6), min_size=1, max_size=6, unique=True))
def test_names_are_matched_as_they_are(names):
    """Escaped and anchored: no name is taken for a pattern, or for the end of another one."""
    pattern = {"[^a].*": 1, ".*": 2}
    keys = order_free(pattern, names, "LORA", "method.rank_pattern")
    wanted = values_of(pattern, pattern, names, lookup_of("LORA"))
    assert values_of(keys, sorted(keys), names, lookup_of("LORA")) == wanted


@pytest.fixture
def foreign(tmp_path, chat_base):
    """A LoRA that plain PEFT has trained and saved, by its configuration."""

    def make(**fields: object) -> Path:
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(chat_base)
        config = peft.LoraConfig(
            task_type="CAUSAL_LM", target_modules="all-linear", r=4, lora_alpha=8, **fields
        )  # fmt: skip
        model = peft.get_peft_model(base, config)
        for layer in lora_layers(model).values():
            torch.nn.init.normal_(layer.lora_B["default"].weight)
        model.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    return make


def test_ranks_that_contradict_their_keys_are_told_with_the_field(foreign, chat_base):
    folder = foreign(rank_pattern={"self_attn.*": 2, ".*_proj": 7})
    (problem,) = verify(str(folder), str(chat_base)).problems
    assert "`rank_pattern` gives `model.layers.0.self_attn.k_proj` rank 7" in problem.found
    assert "tensors have rank 2" in problem.found
    assert "in training `self_attn.*` came first" in problem.advice
    with pytest.raises(AdapterError, match="`rank_pattern` gives"):
        pk.load(str(folder), str(chat_base))
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    config["rank_pattern"] = {"self_attn.*": 2, ".*_proj": 7}  # what the hint advises
    file.write_text(json.dumps(config))
    assert not verify(str(folder), str(chat_base)).problems
    file.write_text(json.dumps({**config, "rank_pattern": {}}))
    (problem,) = verify(str(folder), str(chat_base)).problems
    assert "`r` is 4" in problem.found


def test_alphas_of_several_keys_are_noted(foreign, chat_base):
    folder = foreign(alpha_pattern={"self_attn.*": 2, ".*_proj": 70})
    findings = verify(str(folder), str(chat_base))
    assert not findings.problems
    assert any("`alpha_pattern` gives `model.layers.0" in finding.found for finding in findings.all)


def test_a_run_with_overlapping_keys_ends_well(chat_base, talks, tmp_path):
    from peftkit.run import run

    recipe = pk.Recipe(
        base=pk.Base(name_or_path=str(chat_base)),
        task=pk.Chat(data=pk.Conversations(path=str(talks)), samples=0),
        method=pk.LoRA(r=4, alpha_pattern={"self_attn.*": 2, ".*_proj": 70}),
        training=pk.Training(learning_rate=1e-2, max_steps=1, batch_size=8),
    )
    done = run(recipe, str(tmp_path / "run"))
    assert not verify(str(done.folder)).problems
    again = recipe.with_(start_from=str(done.folder))
    run(again, str(tmp_path / "again"))
