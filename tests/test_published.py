"""Adapters that other programs saved: loaded as they compute, or refused with the reason."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification
from transformers.activations import ACT2FN

import peftkit as pk
from peftkit.adapters.inspection.inspecting import inspect
from peftkit.adapters.verifying import verify
from peftkit.errors import AdapterError
from peftkit.run import run
from tests.conftest import save_tokenizer

HIDDEN = 64
IDS = torch.tensor([[2, 9, 11, 14, 30, 3]])
PFEIFFER = {
    "original_ln_before": True, "original_ln_after": True, "residual_before_ln": True,
    "adapter_residual_before_ln": False, "ln_before": False, "ln_after": False,
    "mh_adapter": False, "output_adapter": True, "non_linearity": "relu", "reduction_factor": 16,
    "is_parallel": False, "scaling": 1.0, "use_gating": False, "inv_adapter": None,
    "inv_adapter_reduction_factor": None, "cross_adapter": False, "leave_out": [], "dropout": 0.0,
    "init_weights": "bert", "init_weights_seed": 42, "phm_layer": False, "phm_dim": 4,
    "factorized_phm_W": True, "learn_phm": True, "stochastic_depth": 0.0,
}  # fmt: skip
"""As `adapters` writes its SeqBnConfig."""
HOULSBY = {**PFEIFFER, "original_ln_before": False, "mh_adapter": True, "non_linearity": "swish"}
PARALLEL = {
    **PFEIFFER, "original_ln_before": False, "is_parallel": True, "scaling": 4.0,
    "reduction_factor": 2, "init_weights": "mam_adapter",
}  # fmt: skip
SETTINGS = {
    "pfeiffer": PFEIFFER,
    "houlsby": HOULSBY,
    "parallel": PARALLEL,
    "pfeiffer at both": {**PFEIFFER, "mh_adapter": True},
    "houlsby at the attention": {**HOULSBY, "output_adapter": False},
    "houlsby at the output": {**HOULSBY, "mh_adapter": False},
    "houlsby, residual": {**HOULSBY, "residual_before_ln": False},
    "leaves out": {**PFEIFFER, "leave_out": [0]},
    "learned": {**PARALLEL, "scaling": "learned"},
    "channel": {**PFEIFFER, "scaling": "channel"},
    "norm": {**PFEIFFER, "ln_before": True, "non_linearity": "leakyrelu"},
    "uneven": {**PFEIFFER, "reduction_factor": 7},
    "wider": {**PFEIFFER, "reduction_factor": 0.5, "non_linearity": "gelu"},
}


def hub_tensors(settings: dict[str, Any], prefix: str = "bert.") -> dict[str, torch.Tensor]:
    """What the library's `state_dict` holds of an adapter named `task` in two layers."""
    torch.manual_seed(5)
    inner = max(1, int(HIDDEN // settings["reduction_factor"]))
    made: dict[str, torch.Tensor] = {}
    for layer in (n for n in range(2) if n not in settings["leave_out"]):
        for place, end in (("mh_adapter", "attention.output"), ("output_adapter", "output")):
            if not settings[place]:
                continue
            at = f"{prefix}encoder.layer.{layer}.{end}.adapters.task."
            down = "adapter_down.0"
            if settings["ln_before"]:
                down = "adapter_down.1"
                for kind in ("weight", "bias"):
                    made[f"{at}adapter_norm_before.{kind}"] = torch.rand(HIDDEN) + 0.5
                    made[f"{at}adapter_down.0.{kind}"] = made[f"{at}adapter_norm_before.{kind}"]
            made[f"{at}{down}.weight"] = torch.randn(inner, HIDDEN) * 0.2
            made[f"{at}{down}.bias"] = torch.randn(inner) * 0.2
            made[f"{at}adapter_up.weight"] = torch.randn(HIDDEN, inner) * 0.2
            made[f"{at}adapter_up.bias"] = torch.randn(HIDDEN) * 0.2
            if isinstance(settings["scaling"], str):
                shape = 1 if settings["scaling"] == "learned" else HIDDEN
                made[f"{at}scaling"] = torch.rand(shape) + 0.5
    return made


def hub_folder(
    folder: Path,
    settings: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    model_type: str = "bert",
    **changes: Any,
) -> Path:
    """A folder as the library's `save_adapter(..., use_safetensors=True)` leaves it."""
    folder.mkdir(parents=True)
    config = {
        "config": settings, "hidden_size": HIDDEN, "model_class": "BertAdapterModel",
        "model_name": "bert-base-uncased", "model_type": model_type, "name": "task",
        "version": "adapters.1.2.0",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    save_file({n: t.clone() for n, t in tensors.items()}, folder / "adapter.safetensors")
    return folder


def by_hand(
    model: Any, settings: dict[str, Any], tensors: dict[str, torch.Tensor], activation: str = ""
) -> torch.Tensor:
    """The last hidden states of a BERT with an adapter, written down from the library's
    `pre_forward`, `forward` and `post_forward`.
    """
    named = {re.sub(r"^(bert|roberta|electra)\.", "", name): t for name, t in tensors.items()}
    f = ACT2FN[activation or settings["non_linearity"].replace("leakyrelu", "leaky_relu")]

    def delta(at: str, x: torch.Tensor) -> torch.Tensor:
        down = "adapter_down.0"
        if settings["ln_before"]:
            down = "adapter_down.1"
            norm = [named[f"{at}adapter_norm_before.{kind}"] for kind in ("weight", "bias")]
            x = nn.functional.layer_norm(x, (HIDDEN,), *norm)
        x = f(nn.functional.linear(x, named[f"{at}{down}.weight"], named[f"{at}{down}.bias"]))
        x = nn.functional.linear(x, named[f"{at}adapter_up.weight"], named[f"{at}adapter_up.bias"])
        scaling = settings["scaling"]
        return x * (named[f"{at}scaling"] if isinstance(scaling, str) else scaling)

    def end(block: Any, x: torch.Tensor, r: torch.Tensor, at: str) -> torch.Tensor:
        h, norm = block.dense(x), block.LayerNorm
        if f"{at}adapter_up.weight" not in named:
            return norm(h + r)
        if settings["is_parallel"]:
            return norm(h + delta(at, r) + r)
        if settings["original_ln_before"]:
            residual, read = h, norm(h + r)
        else:
            residual, read = h, h
        return norm(delta(at, read) + residual + r)

    hidden = model.embeddings(IDS)
    for number, layer in enumerate(model.encoder.layer):
        at = f"encoder.layer.{number}."
        attended = layer.attention.self(hidden)[0]
        middle = end(
            layer.attention.output, attended, hidden, f"{at}attention.output.adapters.task."
        )
        hidden = end(layer.output, layer.intermediate(middle), middle, f"{at}output.adapters.task.")
    return hidden


@pytest.mark.parametrize("name", SETTINGS)
def test_adapterhub_adapters_give_the_hidden_states_of_their_formula(bases, tmp_path, name):
    settings = SETTINGS[name]
    tensors = hub_tensors(settings)
    folder = hub_folder(tmp_path / "hub", settings, tensors)
    findings = verify(str(folder), str(bases["bert"]))
    assert not findings.problems
    told = " ".join(f"{finding.found} {finding.meaning}" for finding in findings.all)
    assert f"reduction factor {settings['reduction_factor']}" in told
    assert "converted to a bottleneck adapter of peftkit" in told
    assert "it was saved without a head" in told
    adapter = pk.load(str(folder), str(bases["bert"]))
    model = AutoModel.from_pretrained(bases["bert"]).eval()
    with torch.no_grad():
        expected = by_hand(model, settings, tensors)
        found = adapter.model(input_ids=IDS).last_hidden_state
        plain = model(input_ids=IDS).last_hidden_state
    assert (found - expected).abs().max() < 1e-6
    assert (found - plain).abs().max() > 1e-2
    with pytest.raises(AdapterError, match="without a head"):
        adapter.predict(["a warm film"])


def test_the_early_names_of_adapterhub_are_read(bases, tmp_path):
    settings = {**PFEIFFER, "non_linearity": "gelu", "mh_adapter": True}
    tensors = hub_tensors(settings)
    early = {
        name.replace("attention.output.adapters", "attention.output.attention_text_task_adapters")
        .replace("output.adapters", "output.layer_text_task_adapters"): tensor
        for name, tensor in tensors.items()
    }  # fmt: skip
    folder = hub_folder(tmp_path / "hub", settings, early)
    config = json.loads((folder / "adapter_config.json").read_text())
    del config["version"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    adapter = pk.load(str(folder), str(bases["bert"]))
    model = AutoModel.from_pretrained(bases["bert"]).eval()
    with torch.no_grad():
        expected = by_hand(model, settings, tensors, "gelu_new")
        found = adapter.model(input_ids=IDS).last_hidden_state
    assert (found - expected).abs().max() < 1e-6


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """A tiny RoBERTa, whose blocks are BERT's, and whose checkpoint has no pooler."""
    from transformers import AutoModelForMaskedLM, RobertaConfig

    folder = tmp_path_factory.mktemp("bases") / "roberta"
    torch.manual_seed(0)
    config = RobertaConfig(
        hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4, vocab_size=80,
        intermediate_size=128, max_position_embeddings=66, initializer_range=0.08, pad_token_id=0,
    )  # fmt: skip
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    save_tokenizer(folder, "bert")
    return folder


@pytest.fixture(scope="module")
def relatives(tmp_path_factory, roberta):
    """Tiny bases whose blocks are BERT's, by architecture."""
    from transformers import ElectraConfig, XLMRobertaConfig

    size = {
        "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 80,
        "intermediate_size": 128, "max_position_embeddings": 66, "initializer_range": 0.08,
        "pad_token_id": 0,
    }  # fmt: skip
    configs = {
        "electra": ElectraConfig(**size, embedding_size=HIDDEN),
        "xlm-roberta": XLMRobertaConfig(**size),
    }
    made = {"roberta": roberta}
    for name, config in configs.items():
        made[name] = tmp_path_factory.mktemp("bases") / name
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(made[name])
        save_tokenizer(made[name], "bert")
    return made


@pytest.mark.parametrize("settings", ["pfeiffer", "houlsby", "parallel"])
@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "electra"])
def test_adapterhub_adapters_of_bert_s_relatives(relatives, tmp_path, kind, settings):
    base = relatives[kind]
    tensors = hub_tensors(SETTINGS[settings], f"{kind.removeprefix('xlm-')}.")
    folder = hub_folder(tmp_path / "hub", SETTINGS[settings], tensors, kind)
    first, last = linear(HIDDEN), linear(3)
    layers = {"1_weight": first.weight, "1_bias": first.bias}
    layers |= {"4_weight": last.weight, "4_bias": last.bias}
    function = "gelu" if kind == "electra" else "tanh"
    with_head(folder, {**HEADS["two layers"], "activation_function": function}, **layers)
    assert not verify(str(folder), str(base)).problems
    adapter = pk.load(str(folder), str(base))
    model = AutoModel.from_pretrained(base).eval()
    with torch.no_grad():
        hidden = by_hand(model, SETTINGS[settings], tensors)[:, 0]
        found = adapter.model(input_ids=IDS).logits
    expected = last(ACT2FN[function](first(hidden)))
    assert (found - expected).abs().max() < 1e-6


HEADS = {
    "pooler": {"layers": 1, "activation_function": None, "use_pooler": True},
    "two layers": {"layers": 2, "activation_function": "tanh", "use_pooler": False},
}


def with_head(folder: Path, head: dict[str, Any], **tensors: torch.Tensor) -> Path:
    config = {
        "head_type": "classification", "num_labels": 3, "bias": True, "dropout_prob": None,
        "label2id": {"bad": 0, "fair": 1, "good": 2}, **head,
    }  # fmt: skip
    content = {"config": config, "name": "task", "model_class": "BertAdapterModel"}
    (folder / "head_config.json").write_text(json.dumps(content))
    named = {f"heads.task.{name.replace('_', '.')}": t for name, t in tensors.items()}
    save_file(named, folder / "model_head.safetensors")
    return folder


def linear(out: int) -> nn.Linear:
    torch.manual_seed(out)
    return nn.Linear(HIDDEN, out)


@pytest.mark.parametrize(
    ("kind", "head"), [("bert", "pooler"), ("bert", "two layers"), ("roberta", "two layers")]
)
def test_adapterhub_classifiers_that_are_transformers_own_answer(
    bases, roberta, tmp_path, kind, head
):
    base = {**bases, "roberta": roberta}[kind]
    tensors = hub_tensors(PFEIFFER, f"{kind}.")
    folder = hub_folder(tmp_path / "hub", PFEIFFER, tensors, kind)
    first, last = linear(HIDDEN), linear(3)
    model = AutoModel.from_pretrained(base).eval()
    if head == "pooler":
        first = model.pooler.dense
        with_head(folder, HEADS[head], **{"1_weight": last.weight, "1_bias": last.bias})
    else:
        layers = {"1_weight": first.weight, "1_bias": first.bias}
        layers |= {"4_weight": last.weight, "4_bias": last.bias}
        with_head(folder, HEADS[head], **layers)
    findings = verify(str(folder), str(base))
    assert not findings.problems
    assert not any("no answers" in finding.found for finding in findings.all)
    adapter = pk.load(str(folder), str(base))
    with torch.no_grad():
        hidden = by_hand(model, PFEIFFER, tensors)[:, 0]
        expected = last(torch.tanh(first(hidden)))
        found = adapter.model(input_ids=IDS).logits
    assert (found - expected).abs().max() < 1e-6
    (answer,) = adapter.predict(["a warm film"])
    assert answer.label in ("bad", "fair", "good")


def test_the_head_of_a_class_of_transformers_is_read(bases, tmp_path):
    tensors, layer = hub_tensors(HOULSBY), linear(3)
    folder = hub_folder(tmp_path / "hub", HOULSBY, tensors)
    content = {
        "config": None, "name": None, "model_class": "BertForSequenceClassification",
        "num_labels": 3, "label2id": {"bad": 0, "fair": 1, "good": 2},
    }  # fmt: skip
    (folder / "head_config.json").write_text(json.dumps(content))
    named = {"classifier.weight": layer.weight, "classifier.bias": layer.bias}
    save_file(named, folder / "model_head.safetensors")
    model = AutoModel.from_pretrained(bases["bert"]).eval()
    adapter = pk.load(str(folder), str(bases["bert"]))
    with torch.no_grad():
        hidden = by_hand(model, HOULSBY, tensors)[:, 0]
        expected = layer(torch.tanh(model.pooler.dense(hidden)))
        found = adapter.model(input_ids=IDS).logits
    assert (found - expected).abs().max() < 1e-6
    assert adapter.record.head.labels == ("bad", "fair", "good")


def test_a_head_that_transformers_has_not_leaves_the_body(bases, tmp_path):
    layer = linear(3)
    saved = {"1_weight": layer.weight, "1_bias": layer.bias}
    for number, (change, reason) in enumerate((
        ({"layers": 1, "use_pooler": False, "activation_function": None}, "which is not the"),
        ({**HEADS["pooler"], "head_type": "tagging"}, "its head is for `tagging`"),
        ({**HEADS["pooler"], "num_labels": 1}, "gives numbers, not classes"),
        ({**HEADS["pooler"], "bias": False}, "which is not the classifier"),
        ({**HEADS["pooler"], "num_labels": 10**9}, "its last layer has another size"),
    )):  # fmt: skip
        folder = hub_folder(tmp_path / str(number), PFEIFFER, hub_tensors(PFEIFFER))
        with_head(folder, change, **saved)
        findings = verify(str(folder), str(bases["bert"]))
        assert not findings.problems
        assert any(reason in finding.found for finding in findings.all), reason
        with pytest.raises(AdapterError, match=re.escape(reason)):
            pk.load(str(folder), str(bases["bert"])).predict(["a warm film"])


REFUSED = {
    "gating": ({"use_gating": True}, "`use_gating` is 'True'"),
    "compacter": ({"phm_layer": True}, "Kronecker"),
    "norm after": ({"ln_after": True}, "`ln_after` is 'True'"),
    "invertible": ({"inv_adapter": "nice"}, "an invertible adapter"),
    "invertible, early": ({"invertible_adapter": {"block_type": "nice"}}, "an invertible adapter"),
    "cross": ({"cross_adapter": True}, "`cross_adapter` is 'True'"),
    "no norm": ({"original_ln_after": False}, "`original_ln_after` is false"),
    "residual": ({"residual_before_ln": False}, "`residual_before_ln` is False"),
    "post add": ({"residual_before_ln": "post_add"}, "`residual_before_ln` is 'post_add'"),
    "parallel at both": ({"is_parallel": True, "mh_adapter": True}, "beside the attention"),
    "nowhere": ({"output_adapter": False}, "it is in no block"),
    "by layer": ({"reduction_factor": {"0": 2, "default": 16}}, "differs by layer"),
    "tiny factor": ({"reduction_factor": 1e-9}, "`reduction_factor` is"),
    "infinite": ({"scaling": float("inf")}, "`scaling` is"),
    "prefix": ({"architecture": "prefix_tuning"}, "`architecture` is 'prefix_tuning'"),
    "lora": ({"architecture": "lora", "r": 8}, "`architecture` is 'lora'"),
    "unknown": ({"sparkle": 1}, "`sparkle` is '1'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_computed_of_adapterhub_is_refused_from_its_settings(tmp_path, name):
    change, reason = REFUSED[name]
    settings = {**PFEIFFER, **change}
    folder = hub_folder(tmp_path / "hub", settings, hub_tensors(PFEIFFER))
    problems = [problem.found for problem in inspect(str(folder)).findings.problems]
    assert any(reason in problem for problem in problems), problems
    with pytest.raises(AdapterError):
        pk.load(str(folder))


def test_what_does_not_fit_of_adapterhub_is_told(bases, tmp_path):
    tensors = hub_tensors(PFEIFFER)
    name = next(name for name in tensors if name.endswith("adapter_up.bias"))
    cases: dict[str, tuple[dict[str, torch.Tensor], dict[str, Any], str]] = {
        "missing": ({n: t for n, t in tensors.items() if n != name}, {}, "is missing"),
        "shape": ({**tensors, name: torch.zeros(3)}, {}, "size mismatch for base_model.model"),
        "more": ({**tensors, "bert.gate": torch.zeros(3)}, {}, "`bert.gate` is no tensor of a"),
        "layers": (
            {**tensors, **{n.replace("layer.1", "layer.4"): t for n, t in tensors.items()}}, {},
            "the base has 2 layers, and the adapter is for 5",
        ),
        "name": (tensors, {"name": "other"}, "named `other`"),
        "wide": (tensors, {"config": {**PFEIFFER, "reduction_factor": 4}}, "of width 16"),
        "type": (tensors, {"model_type": "t5"}, "it is for a t5 model"),
        "width": (tensors, {"hidden_size": 128}, "hidden states of size 128"),
        "early": (tensors, {"config": "pfeiffer"}, "not the settings"),
        "function": (tensors, {"config": {**PFEIFFER, "non_linearity": "x"}}, "`non_linearity`"),
    }  # fmt: skip
    for case, (held, changes, reason) in cases.items():
        folder = hub_folder(tmp_path / case, PFEIFFER, held, **changes)
        problems = [problem.found for problem in verify(str(folder), str(bases["bert"])).problems]
        assert any(reason in problem for problem in problems), (case, problems)


def test_a_fusion_is_refused(tmp_path):
    (tmp_path / "adapter_fusion_config.json").write_text("{}")
    with pytest.raises(AdapterError, match="mixes several adapters"):
        inspect(str(tmp_path))


def test_training_does_not_go_on_from_an_adapterhub_adapter(make_recipe, tmp_path):
    folder = hub_folder(tmp_path / "hub", PFEIFFER, hub_tensors(PFEIFFER))
    recipe = make_recipe(pk.BottleneckAdapter(placement="pfeiffer"), max_steps=1)
    with pytest.raises(AdapterError, match="does not train further"):
        run(recipe.with_(start_from=str(folder)), str(tmp_path / "run"))


def command_in(folder: Path) -> list[str]:
    """The commands that `verify` prints of the pickles of a folder."""
    advice = [problem.advice for problem in inspect(str(folder)).findings.problems]
    return [text.split("in its folder: ")[1] for text in advice if "in its folder: " in text]


def run_printed(folder: Path) -> None:
    for command in command_in(folder):
        assert command.startswith("python ")
        subprocess.run(
            command.replace("python", sys.executable, 1), shell=True, cwd=folder, check=True
        )


def test_the_printed_command_converts_adapterhub_s_pickles(bases, tmp_path):
    settings = {**PFEIFFER, "ln_before": True}  # tensors under two names share their memory
    tensors = hub_tensors(settings)
    folder = hub_folder(tmp_path / "hub", settings, tensors)
    (folder / "adapter.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_adapter.bin")
    layer = linear(3)
    with_head(folder, HEADS["pooler"], **{"1_weight": layer.weight, "1_bias": layer.bias})
    torch.save(load_file(folder / "model_head.safetensors"), folder / "pytorch_model_head.bin")
    (folder / "model_head.safetensors").unlink()
    problems = inspect(str(folder)).findings.problems
    assert [problem.check for problem in problems] == ["pickle", "pickle"]
    run_printed(folder)
    findings = verify(str(folder), str(bases["bert"]))
    assert not findings.problems
    assert sum("is not read" in finding.found for finding in findings.all) == 2
    model = AutoModel.from_pretrained(bases["bert"]).eval()
    with torch.no_grad():
        expected = layer(torch.tanh(model.pooler.dense(by_hand(model, settings, tensors)[:, 0])))
        found = pk.load(str(folder), str(bases["bert"])).model(input_ids=IDS).logits
    assert (found - expected).abs().max() < 1e-6


def test_the_printed_command_converts_a_pickle_of_peft_s(plain, bases, tmp_path):
    shutil.copytree(plain("SEQ_CLS"), folder := tmp_path / "peft")
    file = folder / "adapter_model.safetensors"
    torch.save(load_file(file), folder / "adapter_model.bin")
    file.unlink()
    assert verify(str(folder), str(bases["bert"])).problems
    run_printed(folder)
    assert not verify(str(folder), str(bases["bert"])).problems


def test_no_command_is_printed_for_a_name_that_could_be_one(plain, tmp_path):
    shutil.copytree(plain("SEQ_CLS"), folder := tmp_path / "peft")
    (folder / "adapter_model.safetensors").rename(folder / "x');print('ran.bin")
    assert inspect(str(folder)).findings.problems
    assert not command_in(folder)


AUTO = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
}
BASES = {"CAUSAL_LM": "llama", "SEQ_2_SEQ_LM": "t5"}
"""Of each kind of model; BERT where not named."""


@pytest.fixture(scope="module")
def all_bases(tmp_path_factory, bases, chat_base):
    """Tiny bases by architecture."""
    from transformers import AutoModelForSeq2SeqLM, T5Config

    folder = tmp_path_factory.mktemp("bases") / "t5"
    torch.manual_seed(0)
    config = T5Config(
        d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, vocab_size=80,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=3,
    )  # fmt: skip
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    save_tokenizer(folder, "bert")
    return {"bert": bases["bert"], "llama": chat_base, "t5": folder}


def output_of(model: Any) -> torch.Tensor:
    """All that a model puts out for one text."""
    more = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        found = model.eval()(input_ids=IDS, **more)
    if hasattr(found, "start_logits"):
        return torch.stack([found.start_logits, found.end_logits])
    return found.logits if hasattr(found, "logits") else found.last_hidden_state


@pytest.fixture(scope="module")
def plain(tmp_path_factory, all_bases):
    """Makes what plain PEFT leaves of a LoRA, and what the trained model puts out, in `output.pt`
    beside it: `plain(task_type)`; `named=False` for an adapter that does not say its task.
    """
    import transformers
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("plain")

    def make(task_type: str, named: bool = True) -> Path:
        target = folder / f"{task_type}-{named}" / "adapter"
        if target.exists():
            return target
        torch.manual_seed(0)
        auto = getattr(transformers, AUTO[task_type])
        model = auto.from_pretrained(all_bases[BASES.get(task_type, "bert")])
        names = ("classifier", "qa_outputs", "lm_head")
        heads = [name for name in names if hasattr(model, name)] or None
        saved = None if heads == ["lm_head"] else heads
        config = LoraConfig(
            r=4, target_modules="all-linear", exclude_modules=heads,
            task_type=task_type if named else None, modules_to_save=None if named else saved,
        )  # fmt: skip
        return save_random(get_peft_model(model, config), target)

    return make


def save_random(model: Any, folder: Path) -> Path:
    """Saves a PEFT model whose trained parameters are drawn anew, so that they have an effect."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.1)
    model.save_pretrained(folder)
    torch.save(output_of(model), folder.parent / "output.pt")
    return folder


@pytest.mark.parametrize("named", [True, False], ids=["named", "not named"])
@pytest.mark.parametrize("task_type", AUTO)
def test_plain_peft_s_adapters_of_every_kind_of_model_load(plain, all_bases, task_type, named):
    folder, base = plain(task_type, named), str(all_bases[BASES.get(task_type, "bert")])
    findings = verify(str(folder), base)
    assert not findings.problems
    taken = [finding for finding in findings.all if "no `task_type`" in finding.found]
    assert [f"{task_type} is assumed" in finding.found for finding in taken] == [True][named:]
    adapter = pk.load(str(folder), base)
    expected = torch.load(folder.parent / "output.pt")
    assert (output_of(adapter.model) - expected).abs().max() < 1e-6
    if task_type in ("CAUSAL_LM", "SEQ_CLS"):
        assert adapter.predict(["a warm film"])
    else:
        with pytest.raises(AdapterError, match=f"it is for {task_type}"):
            adapter.predict(["a warm film"])


def changed(source: Path, target: Path, **fields: Any) -> Path:
    """A copy of an adapter with other fields in its adapter_config.json."""
    shutil.copytree(source, target)
    file = target / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return target


@pytest.mark.parametrize(
    "task_type", ["CAUSAL_LM", "SEQ_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION", "SEQ_2_SEQ_LM"]
)
def test_what_says_nothing_is_told_by_its_tensors_and_its_base(
    plain, all_bases, tmp_path, task_type
):
    folder = changed(plain(task_type, named=False), tmp_path / "a", auto_mapping=None)
    findings = verify(str(folder), str(all_bases[BASES.get(task_type, "bert")]))
    assert not findings.problems
    assert any(f"{task_type} is assumed" in finding.found for finding in findings.all)


def test_a_token_classifier_is_told_by_its_base(plain, bases, tmp_path):
    from transformers import AutoModelForTokenClassification

    base = tmp_path / "base"
    shutil.copytree(bases["bert"], base)
    AutoModelForTokenClassification.from_pretrained(base, num_labels=2).save_pretrained(base)
    folder = changed(plain("TOKEN_CLS", named=False), tmp_path / "a", auto_mapping=None)
    findings = verify(str(folder), str(base))
    assert not findings.problems
    assert any("TOKEN_CLS is assumed" in finding.found for finding in findings.all)


def test_a_head_that_neither_the_adapter_nor_the_base_has_is_refused(plain, bases, tmp_path):
    for task_type, missing in (("QUESTION_ANS", "qa_outputs"), ("TOKEN_CLS", "classifier")):
        shutil.copytree(plain(task_type), folder := tmp_path / task_type)
        tensors = load_file(file := folder / "adapter_model.safetensors")
        save_file({n: t for n, t in tensors.items() if missing not in n}, file)
        (problem,) = verify(str(folder), str(bases["bert"])).problems
        assert f"has no weights for `{missing}.bias`" in problem.found


def test_a_pooler_that_nobody_has_is_refused(plain, bases, tmp_path):
    from transformers import AutoModelForTokenClassification

    base = tmp_path / "base"
    shutil.copytree(bases["bert"], base)
    AutoModelForTokenClassification.from_pretrained(base).save_pretrained(base)  # has no pooler
    (problem,) = verify(str(plain("SEQ_CLS")), str(base)).problems
    assert "on `bert.pooler.dense`, and neither" in problem.found
    with pytest.raises(AdapterError, match="neither the base nor the adapter"):
        pk.load(str(plain("SEQ_CLS")), str(base))
    assert not verify(str(plain("FEATURE_EXTRACTION")), str(base)).problems


def test_a_task_type_that_peft_has_not_is_refused(plain, all_bases, tmp_path):
    folder = changed(plain("CAUSAL_LM"), tmp_path / "a", task_type="SPARKLE")
    (problem,) = verify(str(folder), str(all_bases["llama"])).problems
    assert "`task_type` is `SPARKLE`" in problem.found


QUERY_VALUE = {"target_modules": ["q_proj", "v_proj"]}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "AdaLoRA": ("AdaLoraConfig", {"init_r": 6, "target_r": 4, "total_step": 10, **QUERY_VALUE}),
    "IA3": (
        "IA3Config",
        {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    ),
    "LoHa": ("LoHaConfig", {"r": 4, **QUERY_VALUE}),
    "LoKr": ("LoKrConfig", {"r": 4, **QUERY_VALUE}),
    "OFT": ("OFTConfig", {"oft_block_size": 8, **QUERY_VALUE}),
    "VeRA": ("VeraConfig", {"r": 8, **QUERY_VALUE}),
    "FourierFT": ("FourierFTConfig", {"n_frequency": 20, **QUERY_VALUE}),
    "LayerNorm": ("LNTuningConfig", {"target_modules": ["input_layernorm"]}),
    "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": 4}),
    "prefix, projected": (
        "PrefixTuningConfig",
        {"num_virtual_tokens": 4, "prefix_projection": True, "encoder_hidden_size": 16},
    ),
    "prompt": ("PromptTuningConfig", {"num_virtual_tokens": 4}),
    "p-tuning": ("PromptEncoderConfig", {"num_virtual_tokens": 4, "encoder_hidden_size": 16}),
    "tokens": (
        "TrainableTokensConfig", {"token_indices": [5, 6], "target_modules": ["embed_tokens"]}
    ),
    "DoRA": ("LoraConfig", {"r": 4, "use_dora": True, **QUERY_VALUE}),
    "patterns": ("LoraConfig", {"use_rslora": True, "rank_pattern": {"v_proj": 2}, **QUERY_VALUE}),
    "bias": ("LoraConfig", {"r": 4, "bias": "all", **QUERY_VALUE}),
    "embeddings": ("LoraConfig", {"r": 4, "target_modules": ["q_proj", "embed_tokens"]}),
    "whole modules": ("LoraConfig", {"r": 4, "modules_to_save": ["lm_head"], **QUERY_VALUE}),
}  # fmt: skip
STARTS = ("gaussian", "orthogonal", "mica")


def make_causal(base: Path, folder: Path, kind: str, settings: dict[str, Any]) -> Path:
    """What plain PEFT leaves of an adapter on a causal base; `output.pt` is beside it."""
    import peft
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = getattr(peft, kind)(**settings, task_type="CAUSAL_LM")
    model = AutoModelForCausalLM.from_pretrained(base)
    return save_random(peft.get_peft_model(model, config), folder / "adapter")


@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, of what it will call otherwise
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_adapter_answers_as_in_plain_peft(all_bases, tmp_path, name):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = all_bases["llama"]
    folder = make_causal(base, tmp_path, *KINDS[name])
    findings = verify(str(folder), str(base))
    assert not findings.problems
    assert any(f.check == "effect" and f.result == "ok" for f in findings.all)
    adapter = pk.load(str(folder), str(base))
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    found = output_of(adapter.model)
    assert (found - output_of(plain)).abs().max() < 1e-6
    assert (found - torch.load(tmp_path / "output.pt")).abs().max() < 1e-6
    assert len(adapter.predict(["a warm film", "it"])) == 2


def test_what_needs_more_than_a_text_is_refused(plain, all_bases, tmp_path):
    for kind in ("POLY", "LILY", "CPT", "XLORA"):
        folder = changed(plain("CAUSAL_LM"), tmp_path / kind, peft_type=kind, **{})
        config = json.loads((folder / "adapter_config.json").read_text())
        kept = {name: config[name] for name in ("peft_type", "task_type")}
        (folder / "adapter_config.json").write_text(json.dumps(kept))
        (problem,) = verify(str(folder), str(all_bases["llama"])).problems
        assert f"{kind} cannot be loaded: it" in problem.found


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "corda", "lora_ga", "loftq"])
def test_an_adapter_of_a_changed_base_is_refused_from_its_settings(
    make_chat, all_bases, plain, tmp_path, start
):
    base = all_bases["llama"]
    if start in ("pissa", "pissa_niter_4", "olora"):
        settings = {"r": 4, "init_lora_weights": start, **QUERY_VALUE}
        folder = make_causal(base, tmp_path, "LoraConfig", settings)
    else:  # which PEFT begins from data, or quantizes
        folder = changed(plain("CAUSAL_LM"), tmp_path / "adapter", init_lora_weights=start)
    (problem,) = inspect(str(folder)).findings.problems
    assert f"its initialisation, `{start}`, changed the base" in problem.found
    conversion = "no conversion" if start == "loftq" else "path_initial_model_for_weight_conversion"
    assert conversion in problem.advice
    assert verify(str(folder), str(base)).problems == [problem]
    with pytest.raises(AdapterError, match="changed the base before training"):
        pk.load(str(folder), str(base))
    recipe = make_chat(pk.LoRA(r=4, target_modules=("q_proj", "v_proj")), max_steps=1)
    with pytest.raises(AdapterError, match="changed the base before training"):
        run(recipe.with_(start_from=str(folder)), str(tmp_path / "run"))


@pytest.mark.parametrize("start", STARTS)
def test_an_adapter_whose_start_leaves_the_base_alone_loads(all_bases, tmp_path, start):
    settings = {"r": 4, "init_lora_weights": start, **QUERY_VALUE}
    folder = make_causal(all_bases["llama"], tmp_path, "LoraConfig", settings)
    assert not verify(str(folder), str(all_bases["llama"])).problems
    found = output_of(pk.load(str(folder), str(all_bases["llama"])).model)
    assert (found - torch.load(tmp_path / "output.pt")).abs().max() < 1e-6


@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, that PiSSA changes the base
def test_peft_s_conversion_of_pissa_is_accepted(all_bases, tmp_path):
    import peft
    from transformers import AutoModelForCausalLM

    base = all_bases["llama"]
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, init_lora_weights="pissa", task_type="CAUSAL_LM", **QUERY_VALUE)
    model: Any = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.peft_config["default"].init_lora_weights = True  # as PEFT's guide says
    model.save_pretrained(tmp_path / "initial")
    model.peft_config["default"].init_lora_weights = "pissa"
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    expected = output_of(model)
    folder = tmp_path / "converted"
    model.save_pretrained(folder, path_initial_model_for_weight_conversion=tmp_path / "initial")
    assert not verify(str(folder), str(base)).problems
    found = output_of(pk.load(str(folder), str(base)).model)
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize("method", [pk.PiSSA(r=4), pk.OLoRA(r=4), pk.EVA(r=4)])
def test_our_own_adapters_of_such_starts_fit_the_base(make_recipe, tmp_path, method):
    done = run(make_recipe(method, max_steps=2), str(tmp_path / "run"))
    assert not verify(str(done.folder)).problems


@pytest.fixture(scope="module")
def depths(tmp_path_factory, chat_base):
    """Causal bases that differ in their number of layers."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    folder = tmp_path_factory.mktemp("depths")
    for number in (2, 4, 6):
        shutil.copytree(chat_base, folder / str(number))
        config = LlamaConfig.from_pretrained(chat_base, num_hidden_layers=number)
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / str(number))
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, of keys that are missing
@pytest.mark.parametrize("name", ["LoRA", "IA3", "prefix", "prompt"])
def test_a_base_of_other_depth_is_told(depths, tmp_path, name):
    kind = KINDS.get(name, ("LoraConfig", {"r": 4, **QUERY_VALUE}))
    folder = make_causal(depths / "4", tmp_path, *kind)
    assert not verify(str(folder), str(depths / "4")).problems
    for number in (2, 6):
        (problem,) = verify(str(folder), str(depths / str(number))).problems
        assert f"the base has {number} layers, and the adapter is for 4" in problem.found
        with pytest.raises(AdapterError, match=f"the base has {number} layers"):
            pk.load(str(folder), str(depths / str(number)))


def test_chosen_layers_fit_a_deeper_base(depths, tmp_path):
    settings = {"r": 4, "layers_to_transform": [0, 1, 2, 3], **QUERY_VALUE}
    folder = make_causal(depths / "6", tmp_path, "LoraConfig", settings)
    assert not verify(str(folder), str(depths / "6")).problems


def test_an_adapterhub_adapter_of_fewer_layers_is_told(bases, tmp_path):
    from transformers import BertConfig

    base = tmp_path / "base"
    shutil.copytree(bases["bert"], base)
    config = BertConfig.from_pretrained(base, num_hidden_layers=3)
    AutoModel.from_config(config).save_pretrained(base)
    folder = hub_folder(tmp_path / "hub", PFEIFFER, hub_tensors(PFEIFFER))
    (problem,) = verify(str(folder), str(base)).problems
    assert "the base has 3 layers, and the adapter is for 2" in problem.found


def test_every_layer_of_a_classifier_s_head_must_be_there(tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import DistilBertConfig

    base = tmp_path / "base"
    torch.manual_seed(0)
    config = DistilBertConfig(
        dim=HIDDEN, hidden_dim=128, n_layers=2, n_heads=4, vocab_size=80,
        max_position_embeddings=64, initializer_range=0.08,
    )  # fmt: skip
    AutoModel.from_config(config).save_pretrained(base)
    save_tokenizer(base, "bert")
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    adapter = LoraConfig(r=4, target_modules=["q_lin", "v_lin"], task_type="SEQ_CLS")
    folder = save_random(get_peft_model(model, adapter), tmp_path / "a" / "adapter")
    assert not verify(str(folder), str(base)).problems
    loaded = pk.load(str(folder), str(base))
    expected = torch.load(tmp_path / "a" / "output.pt")
    assert expected.shape[1] == 3
    assert (output_of(loaded.model) - expected).abs().max() < 1e-6
    tensors = load_file(file := folder / "adapter_model.safetensors")
    save_file({n: t for n, t in tensors.items() if "pre_classifier" not in n}, file)
    settings = json.loads((folder / "adapter_config.json").read_text())
    changed(folder, tmp_path / "b", **{**settings, "modules_to_save": ["classifier"]})
    assert "pre_classifier" in verify(str(tmp_path / "b"), str(base)).problems[0].found


def test_a_classifier_whose_head_was_not_saved_is_refused(all_bases, tmp_path):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(all_bases["t5"])
    config = LoraConfig(r=4, target_modules=["q"], task_type="SEQ_CLS")  # whose head PEFT misses
    injected = get_peft_model(model, config)
    injected.save_pretrained(tmp_path)
    (problem,) = verify(str(tmp_path), str(all_bases["t5"])).problems
    assert "no tensor of the classifier is in the adapter" in problem.found


def test_an_adapterhub_adapter_is_for_its_architecture(bases, relatives, tmp_path):
    folder = hub_folder(tmp_path / "hub", PFEIFFER, hub_tensors(PFEIFFER))
    told = [f.found for f in verify(str(folder), str(relatives["roberta"])).problems]
    assert any("the adapter is for bert models, and the base is a roberta" in text for text in told)


@pytest.mark.parametrize("change", [{"layers": [1]}, {"activation_function": {}}])
def test_a_head_of_odd_settings_leaves_the_body(bases, tmp_path, change):
    folder = hub_folder(tmp_path / "hub", PFEIFFER, hub_tensors(PFEIFFER))
    head = {"head_type": "classification", "layers": 2, "num_labels": 2, **change}
    layer = linear(2)
    with_head(folder, head, **{"1_weight": layer.weight, "1_bias": layer.bias})
    with pytest.raises(AdapterError, match="no answers to texts"):
        pk.load(str(folder), str(bases["bert"])).predict(["a film"])


def test_code_beside_a_base_does_not_run_because_an_adapter_asks(make_recipe, tmp_path, capsys):
    done = run(make_recipe(max_steps=1), str(tmp_path / "run"))
    file = done.folder / "recipe.json"
    asked = json.loads(file.read_text())
    asked["base"]["trust_remote_code"] = True
    file.write_text(json.dumps(asked))
    with pytest.raises(AdapterError, match="needs code stored with its base") as caught:
        pk.load(str(done.folder))
    assert "`--trust-remote-code`" in caught.value.hint
    assert verify(str(done.folder)).problems
    assert not verify(str(done.folder), trust_remote_code=True).problems


def test_paths_that_are_none_are_told():
    for path, told in (("~nobody-here/x", "nobody-here"), ("x" * 300, "File name too long")):
        with pytest.raises(AdapterError, match=told):
            inspect(path)
