"""A merged folder stands alone and answers as the adapter does, or is not there."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
from pathlib import Path

import peft
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig

import peftkit as pk
from peftkit.cli.main import command_line
from peftkit.deploy.merging.certificate import distance
from peftkit.deploy.merging.merge import merge_to
from peftkit.errors import AdapterError, MethodError, OutputError
from peftkit.reports.merge_report import BothScores
from peftkit.run import run
from tests.chat_formats import BY_NAME

IDS = torch.tensor([[5, 9, 3, 12, 7]])
METHODS = {
    "DoRA": pk.DoRA(r=4, lora_alpha=8),
    "PiSSA": pk.PiSSA(r=4, lora_alpha=8, use_rslora=True),
    "IA3": pk.IA3(),
    "AdaLoRA": pk.AdaLoRA(target_r=4, init_r=6),
    "BitFit": pk.BitFit(),
    "FullFineTuning": pk.FullFineTuning(),
}
"""One of each kind of merge; docs/matrix.md has all."""


def adapter_logits(folder: Path) -> torch.Tensor:
    with torch.inference_mode():
        return pk.load(str(folder)).model(input_ids=IDS).logits


def alone(folder: Path, auto: str = "AutoModelForSequenceClassification"):
    """The folder as transformers alone opens it."""
    return getattr(transformers, auto).from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def one_step(make_recipe, tmp_path_factory):
    """The folder of a run of one step."""
    return run(make_recipe(max_steps=1), str(tmp_path_factory.mktemp("one") / "run")).folder


@pytest.fixture(scope="module")
def four_bits(make_chat, tmp_path_factory):
    """A run of a few steps on a chat model in 4 bit."""
    recipe = make_chat(base={"quantization": "nf4"}, max_steps=4)
    return run(recipe, str(tmp_path_factory.mktemp("four") / "run"))


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", METHODS)
def test_the_merged_folder_answers_as_the_adapter_does(make_recipe, tmp_path, name):
    steps = {"max_steps": 12} if name == "AdaLoRA" else {"max_steps": 4}
    done = run(make_recipe(METHODS[name], **steps), str(tmp_path / "run"))
    report = merge_to(str(done.folder), str(tmp_path / "merged"))
    model = alone(tmp_path / "merged")
    torch.testing.assert_close(
        model(input_ids=IDS).logits, adapter_logits(done.folder), rtol=0, atol=2e-6
    )
    assert model.config.id2label == {0: "bad", 1: "good"}
    assert report.relative <= report.tolerance == 1e-5
    assert report.top1_agreement == 1.0
    assert report.validation.positions == 30
    of_adapter, of_merged = report.score.adapter, report.score.merged
    assert of_merged == pytest.approx(of_adapter, abs=1e-6)
    assert of_adapter["loss"] > 0
    assert json.loads((tmp_path / "merged/merge_report.json").read_text()) == report.to_json()
    assert not any("lora" in key for key in load_file(tmp_path / "merged/model.safetensors"))


@pytest.mark.parametrize("method", [pk.LoRA(r=4, lora_alpha=8), pk.DoRA(r=4, lora_alpha=8)])
def test_a_chat_model_in_4_bit_is_merged_into_what_it_was_trained_on(make_chat, tmp_path, method):
    recipe = make_chat(method, base={"quantization": "nf4"}, max_steps=4)
    done = run(recipe, str(tmp_path / "run"))
    report = merge_to(str(done.folder), str(tmp_path / "merged"))
    model = alone(tmp_path / "merged", "AutoModelForCausalLM")
    found = model(input_ids=IDS).logits
    torch.testing.assert_close(found, adapter_logits(done.folder), rtol=1e-5, atol=1e-5)
    assert {type(m).__name__ for m in model.modules()}.isdisjoint({"Linear4bit"})
    assert "quantization_config" not in json.loads((tmp_path / "merged/config.json").read_text())
    assert report.kl < 1e-9
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template
    settings = json.loads((done.folder / "adapter/generation_config.json").read_text())
    assert model.generation_config.max_new_tokens == settings["max_new_tokens"]
    assert model.generation_config.eos_token_id == settings["eos_token_id"]


def test_other_weights_cost_what_the_report_says(four_bits, tmp_path):
    expected = adapter_logits(four_bits.folder)
    for into, layer in (("original", "Linear"), ("requantized", "Linear4bit")):
        report = merge_to(str(four_bits.folder), str(tmp_path / into), into)
        model = alone(tmp_path / into, "AutoModelForCausalLM")
        with torch.inference_mode():
            found = model(input_ids=IDS).logits
        assert float((found - expected).abs().max()) > 10 * report.tolerance
        assert report.max_abs_dlogit > 10 * report.tolerance
        assert report.kl > 0
        kinds = {type(m).__name__ for name, m in model.named_modules() if name.endswith("q_proj")}
        assert kinds == {layer}
    assert files_in(tmp_path / "requantized") == files_in(tmp_path / "original")


def test_int8_is_dequantized(make_recipe, tmp_path):
    done = run(make_recipe(quantization="int8", max_steps=4), str(tmp_path / "run"))
    report = merge_to(str(done.folder), str(tmp_path / "merged"))
    assert report.relative <= report.tolerance == 5e-2
    assert type(alone(tmp_path / "merged").bert.encoder.layer[0].output.dense) is torch.nn.Linear


def test_bfloat16_is_rounded_once(make_chat, tmp_path):
    recipe = make_chat(base={"dtype": "bfloat16"}, max_steps=4)
    merge_to(str(run(recipe, str(tmp_path / "run")).folder), str(tmp_path / "merged"))
    report = json.loads((tmp_path / "merged/merge_report.json").read_text())
    assert report["dtype"] == "bfloat16"
    assert report["relative"] <= report["tolerance"] == 5e-2
    weights = load_file(tmp_path / "merged/model.safetensors")
    key = "model.layers.0.mlp.up_proj.weight"
    adapter = load_file(tmp_path / "run/adapter/adapter_model.safetensors")
    part = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.weight"
    base = load_file(Path(recipe.base.name_or_path) / "model.safetensors")
    delta = 2.0 * adapter[part.format("B")] @ adapter[part.format("A")]
    expected = (base[key].bfloat16().float() + delta).bfloat16()
    assert torch.equal(weights[key], expected)


def test_the_strength_of_lora_can_be_chosen(make_recipe, tmp_path):
    done = run(make_recipe(max_steps=4), str(tmp_path / "run"))
    base = make_recipe().base.name_or_path
    adapter = load_file(done.folder / "adapter/adapter_model.safetensors")
    part = "base_model.model.bert.encoder.layer.0.output.dense.lora_{}.weight"
    delta = 2.0 * adapter[part.format("B")] @ adapter[part.format("A")]
    key = "bert.encoder.layer.0.output.dense.weight"
    before = load_file(f"{base}/model.safetensors")
    before = before.get(key, before.get(key.removeprefix("bert.")))
    for scale in (0.0, 0.5):
        report = merge_to(str(done.folder), str(tmp_path / f"{scale}"), scale=scale)
        found = load_file(tmp_path / f"{scale}/model.safetensors")[key]
        torch.testing.assert_close(found, before + scale * delta, rtol=0, atol=1e-6)
        assert report.scale == scale
    assert float(delta.abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (pk.DoRA(r=4), "the method is DoRA, and only LoRA's updates can be scaled"),
        (pk.IA3(), "the method is IA3, and only"),
        (pk.BitFit(), "the method is one of peftkit's own methods, and only"),
    ],
)
def test_other_methods_have_no_strength(make_recipe, tmp_path, method, reason):
    base = shutil.copytree(make_recipe().base.name_or_path, tmp_path / "base")
    recipe = make_recipe(method, max_steps=1)
    recipe = recipe.with_(base=recipe.base.with_(name_or_path=str(base)))
    done = run(recipe, str(tmp_path / "run"))
    (base / "model.safetensors").unlink()  # it is told before weights are looked at
    with pytest.raises(MethodError, match=reason):
        merge_to(str(done.folder), str(tmp_path / "merged"), scale=0.5)
    assert files_in(tmp_path) == ["base", "run"]


def test_what_cannot_be_merged_is_told_and_nothing_is_left(make_recipe, one_step, tmp_path):
    done = run(make_recipe(pk.BottleneckAdapter(), max_steps=1), str(tmp_path / "run"))
    with pytest.raises(MethodError, match="keep the adapter"):
        merge_to(str(done.folder), str(tmp_path / "merged"))
    lora = shutil.copytree(one_step, tmp_path / "lora")
    for into in ("original", "requantized"):
        with pytest.raises(MethodError, match="the base was not quantized"):
            merge_to(str(lora), str(tmp_path / "merged"), into)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="nothing is overwritten") as caught:
        merge_to(str(lora), str(tmp_path / "full"))
    assert "`--output`" in caught.value.hint
    for output, told in (
        ("~nobody-here/x", "nobody-here"), ("x" * 300, "File name too long"),
        (tmp_path / "full/mine.txt/x", "is not a folder"),
    ):  # fmt: skip
        with pytest.raises(OutputError, match=told):
            merge_to(str(lora), str(output))
    damaged = tmp_path / "lora/adapter/adapter_model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-4])
    with pytest.raises(AdapterError, match="cannot be trusted"):
        merge_to(str(lora), str(tmp_path / "merged"))
    assert files_in(tmp_path) == ["full", "lora", "run"]


def plain_lora(base: Path, folder: Path, targets: list[str], **options) -> Path:
    """A LoRA that plain PEFT saves, with values as if it were trained."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **options)
    wrapped = get_peft_model(model, config)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data.normal_(std=0.3)
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    return folder


def test_an_adapter_of_plain_peft_is_merged_without_a_score(chat_base, tmp_path):
    adapter = plain_lora(chat_base, tmp_path / "lora", ["q_proj", "v_proj"])
    report = merge_to(str(adapter), str(tmp_path / "merged"))
    base = AutoModelForCausalLM.from_pretrained(chat_base)
    expected = peft.PeftModel.from_pretrained(base, adapter).eval()(input_ids=IDS).logits
    found = alone(tmp_path / "merged", "AutoModelForCausalLM")(input_ids=IDS).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert "names no data" in report.validation_absent
    assert report.score == BothScores({}, {})


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings:UserWarning")  # PEFT knows
def test_an_adapter_in_bfloat16_is_computed_in_float32(chat_base, tmp_path):
    adapter = plain_lora(chat_base, tmp_path / "lora", ["q_proj", "v_proj"])
    file = adapter / "adapter_model.safetensors"
    save_file({n: t.bfloat16() for n, t in load_file(file).items()}, file, {"format": "pt"})
    base = AutoModelForCausalLM.from_pretrained(chat_base)
    expected = peft.PeftModel.from_pretrained(base, adapter).eval()(input_ids=IDS).logits
    torch.testing.assert_close(adapter_logits(adapter), expected, rtol=1e-5, atol=1e-5)
    assert merge_to(str(adapter), str(tmp_path / "merged")).relative < 1e-5


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings:UserWarning")  # PEFT knows
def test_an_output_layer_that_was_trained_whole_is_no_longer_tied(chat_base, tmp_path):
    adapter = plain_lora(chat_base, tmp_path / "a", ["q_proj"], modules_to_save=["lm_head"])
    assert merge_to(str(adapter), str(tmp_path / "merged")).relative < 1e-5
    found = alone(tmp_path / "merged", "AutoModelForCausalLM")
    assert not found.config.tie_word_embeddings
    torch.testing.assert_close(found(input_ids=IDS).logits, adapter_logits(adapter))
    with pytest.raises(MethodError, match="the adapter trains `lm_head` whole"):
        merge_to(str(adapter), str(tmp_path / "half"), scale=0.5)


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings:UserWarning")  # PEFT knows
def test_a_merge_that_changes_the_answers_is_refused(tmp_path):
    """LoRA on a layer that Mamba does not call: beside the base it has no effect, folded in it has,
    since the architecture multiplies with the weight itself.
    """
    tokenizer = BY_NAME["ChatML"].tokenizer()
    torch.manual_seed(0)
    config = MambaConfig(
        hidden_size=32, num_hidden_layers=1, state_size=2, vocab_size=len(tokenizer),
        initializer_range=0.5, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "mamba")
    tokenizer.save_pretrained(tmp_path / "mamba")
    adapter = plain_lora(tmp_path / "mamba", tmp_path / "lora", ["dt_proj"])
    with pytest.raises(MethodError, match="has no effect, and would have one"):
        merge_to(str(adapter), str(tmp_path / "merged"))
    assert files_in(tmp_path) == ["lora", "mamba"]


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings:UserWarning")  # PEFT knows
def test_an_embedding_that_is_tied_gets_its_own_weight(tmp_path, chat_base):
    tied = shutil.copytree(chat_base, tmp_path / "tied")
    config = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    weights = load_file(tied / "model.safetensors")
    weights.pop("lm_head.weight", None)
    save_file(weights, tied / "model.safetensors", metadata={"format": "pt"})
    adapter = plain_lora(tied, tmp_path / "lora", ["embed_tokens"])
    assert merge_to(str(adapter), str(tmp_path / "merged")).relative < 1e-5
    found = alone(tmp_path / "merged", "AutoModelForCausalLM")
    assert not found.config.tie_word_embeddings
    torch.testing.assert_close(found(input_ids=IDS).logits, adapter_logits(adapter))


def test_without_the_data_the_probes_are_the_proof(make_recipe, tmp_path, reviews):
    data = shutil.copy(reviews, tmp_path / "mine.csv")
    done = run(make_recipe(data=data, max_steps=1), str(tmp_path / "run"))
    Path(data).unlink()
    report = merge_to(str(done.folder), str(tmp_path / "merged"))
    assert report.validation_absent == "the data of the training is not where the recipe says"
    assert str(tmp_path) not in (tmp_path / "merged/merge_report.json").read_text()
    assert report.probes.positions == 4
    assert report.validation is None
    assert "validation" not in report.to_json()


def test_the_command_prints_the_certificate(one_step, tmp_path, capsys):
    folder = str(shutil.copytree(one_step, tmp_path / "run"))
    capsys.readouterr()
    command_line(["merge", folder, "--output", str(tmp_path / "a"), "--json"])
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert {"max_abs_dlogit", "kl", "top1_agreement", "score"} <= report.keys()
    assert "max |Δ logit|" in printed.err
    with pytest.raises(SystemExit) as caught:
        command_line(["merge", folder, "--output", str(tmp_path / "b"), "--scale", "nan"])
    assert caught.value.code == 2
    assert "`--scale` is nan" in capsys.readouterr().err
    assert files_in(tmp_path) == ["a", "run"]


def test_all_that_the_receipt_offers_can_be_done(make_chat, in_tmp):
    done = run(make_chat(max_steps=1), "runs/a b")
    offered = done.record.serve
    assert {"one model, for transformers", "PEFT alone", "vLLM"} <= offered.keys()
    assert "--to vllm" in (done.folder / "receipt.html").read_text()
    for command in offered.values():
        words = shlex.split(command)
        command_line(words[1:])
        assert Path(words[words.index("--output") + 1]).exists()
    with pytest.raises(AdapterError, match="is a merged model, with no adapter left"):
        pk.load("runs/a b-merged")
    with pytest.raises(AdapterError, match="is a file"):
        pk.load("runs/a b/run.json")


def test_what_a_dead_process_left_is_taken_away(one_step, tmp_path):
    folder = shutil.copytree(one_step, tmp_path / "run")
    mine = tmp_path / f".merged.partial-{os.getpid()}-x"
    for left in (mine, tmp_path / ".merged.partial-999999999-x", tmp_path / ".other.partial-1-x"):
        left.mkdir()
    merge_to(str(folder), str(tmp_path / "merged"))
    assert files_in(tmp_path) == [mine.name, ".other.partial-1-x", "merged", "run"]


def test_distances_are_those_of_their_definitions():
    first = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    second = torch.tensor([[2.0, 0.0, 0.0], [3.0, 1.0, 0.0]])
    found = distance(first, second)
    p, q = first[1].softmax(0), second[1].softmax(0)
    assert found.max_abs_dlogit == 3.0
    assert found.relative == 1.5
    assert found.kl == pytest.approx(float((p * (p / q).log()).sum()) / 2, rel=1e-5)
    assert found.top1_agreement == 0.5
    for row in (0, 1):
        broken = second.clone()
        broken[row, 0] = torch.nan
        assert math.isnan(distance(first, broken).max_abs_dlogit)
