"""What is exported in PEFT's format answers, by plain PEFT, as the adapter does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import peftkit as pk
from peftkit.bases.opening import open_base
from peftkit.cli.main import command_line
from peftkit.data.head import Head
from peftkit.deploy.exporting.export import export
from peftkit.deploy.exporting.peft_folder import check_expanded, vllm_rank
from peftkit.deploy.lora_updates import read_updates
from peftkit.errors import AdapterError, OutputError, RecipeError
from peftkit.methods.peft.adapter_config import read_config
from peftkit.run import run

IDS = torch.tensor([[5, 9, 3, 12, 7]])
HEAD = Head("AutoModelForCausalLM", "CAUSAL_LM", trained=False)


@pytest.fixture(scope="module")
def uneven(chat_base, tmp_path_factory) -> Path:
    """A LoRA of plain PEFT whose layers have ranks and scales of their own."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, lora_alpha=8, use_rslora=True, rank_pattern={"v_proj": 7}, task_type="CAUSAL_LM",
        alpha_pattern={"o_proj": 5}, target_modules=r".*\.(q_proj|v_proj|o_proj)",
    )  # fmt: skip
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(chat_base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    folder = tmp_path_factory.mktemp("uneven")
    model.save_pretrained(folder)
    return folder


def by_peft(folder: Path, base: Path, auto=AutoModelForCausalLM, **options) -> torch.Tensor:
    model = peft.PeftModel.from_pretrained(auto.from_pretrained(base, **options), folder)
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("to", ["peft", "vllm"])
def test_one_rank_and_one_scale_say_the_same(uneven, chat_base, tmp_path, to):
    done = export(str(uneven), to, str(tmp_path / "out"))
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["r"] == 7
    assert not any(config.get(n) for n in ("rank_pattern", "alpha_pattern", "use_rslora"))
    assert config["target_modules"] == ["o_proj", "q_proj", "v_proj"]
    tensors = load_file(tmp_path / "out/adapter_model.safetensors")
    assert {min(tensor.shape) for tensor in tensors.values()} == {7}
    torch.testing.assert_close(
        by_peft(tmp_path / "out", chat_base), by_peft(uneven, chat_base), rtol=1e-5, atol=1e-5
    )
    assert done.checked["largest_difference"] < 1e-6
    if to == "vllm":
        assert "--max-lora-rank 8 " in done.notes[0]


def test_layers_that_are_adapted_here_and_not_there_have_whole_names(chat_base, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(chat_base)
    config = LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[1],
                        init_lora_weights=False, task_type="CAUSAL_LM")  # fmt: skip
    get_peft_model(model, config).save_pretrained(tmp_path / "lora")
    export(str(tmp_path / "lora"), "vllm", str(tmp_path / "out"))
    written = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert written["target_modules"] == ["model.layers.1.self_attn.q_proj"]
    torch.testing.assert_close(
        by_peft(tmp_path / "out", chat_base), by_peft(tmp_path / "lora", chat_base)
    )


def test_adalora_is_written_as_lora_with_its_head(make_recipe, tmp_path):
    recipe = make_recipe(pk.AdaLoRA(target_r=3, init_r=5), max_steps=12)
    done = run(recipe, str(tmp_path / "run"))
    report = export(str(done.folder), "peft", str(tmp_path / "out"))
    assert report.checked["probes"] < 1e-5
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    base, auto = Path(recipe.base.name_or_path), AutoModelForSequenceClassification
    expected = pk.load(str(done.folder)).model(input_ids=IDS).logits
    found = by_peft(tmp_path / "out", base, auto, num_labels=2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not (tmp_path / "out/peftkit.json").exists()


@pytest.mark.parametrize("method", [pk.DoRA(r=4), pk.IA3()])
def test_other_tuners_of_peft_stay_as_they_are(make_recipe, tmp_path, method):
    recipe = make_recipe(method, max_steps=2)
    done = run(recipe, str(tmp_path / "run"))
    export(str(done.folder), "peft", str(tmp_path / "out"))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (
            done.folder / "adapter" / name
        ).read_bytes()


def test_a_chat_model_takes_its_template_along(make_chat, tmp_path, capsys):
    done = run(make_chat(pk.PiSSA(r=4), max_steps=2), str(tmp_path / "run"))
    capsys.readouterr()
    arguments = ["export", str(done.folder), "--output", str(tmp_path / "out"), "--json"]
    command_line([*arguments, "--to", "vllm"])
    report = json.loads(capsys.readouterr().out)
    assert report["r"] == 8
    assert f"--chat-template {tmp_path / 'out/chat_template.jinja'}" in report["notes"][0]
    assert (tmp_path / "out/chat_template.jinja").is_file()
    command_line(
        ["export", str(done.folder), "--to", "safetensors", "--output", str(tmp_path / "whole")]
    )
    assert (tmp_path / "whole/merge_report.json").is_file()


REFUSED = {
    "vllm": [
        (pk.DoRA(r=4), "the method is DoRA, and vLLM takes only A and B"),
        (pk.PrefixTuning(num_virtual_tokens=4), "the method is PREFIX_TUNING, and vLLM takes"),
        (pk.TopLayers(k=1), "weights of the base itself"),
    ],
    "peft": [
        (pk.BottleneckAdapter(), "PEFT alone has no bottleneck adapters"),
        (pk.FullFineTuning(), "weights of the base itself"),
    ],
}


@pytest.mark.parametrize(
    ("to", "method", "reason"), [(to, *case) for to, cases in REFUSED.items() for case in cases]
)
def test_what_a_format_has_no_place_for_is_refused(make_chat, tmp_path, to, method, reason):
    done = run(make_chat(method, max_steps=1), str(tmp_path / "run"))
    with pytest.raises(AdapterError, match=reason):
        export(str(done.folder), to, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings:UserWarning")  # PEFT knows
def test_vllm_takes_no_classifier_and_no_output_layer(make_recipe, tmp_path, chat_base):
    done = run(make_recipe(max_steps=1), str(tmp_path / "run"))
    with pytest.raises(AdapterError, match="a head of its own"):
        export(str(done.folder), "vllm", str(tmp_path / "out"))
    config = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(chat_base), config)
    model.save_pretrained(tmp_path / "lora", save_embedding_layers=False)
    with pytest.raises(AdapterError, match="the adapter changes `lm_head`"):
        export(str(tmp_path / "lora"), "vllm", str(tmp_path / "out"))
    assert [vllm_rank(r) for r in (1, 2, 9, 300, 512)] == [1, 8, 16, 320, 512]
    with pytest.raises(AdapterError, match="vLLM takes 512 at most"):
        vllm_rank(513)


def test_a_written_folder_that_is_not_the_adapter_is_noticed(uneven, chat_base, tmp_path):
    export(str(uneven), "peft", str(tmp_path / "out"))
    base, config = open_base(pk.Base(name_or_path=str(chat_base))), read_config(uneven)
    saved = read_updates(uneven, config, base, HEAD)
    assert check_expanded(saved, tmp_path / "out") < 1e-6
    file = tmp_path / "out/adapter_config.json"
    right = json.loads(file.read_text())
    file.write_text(json.dumps({**right, "lora_alpha": right["lora_alpha"] + 1}))
    with pytest.raises(AdapterError, match="differ from the adapter"):
        check_expanded(saved, tmp_path / "out")
    file.write_text(json.dumps(right))
    tensors = load_file(tmp_path / "out/adapter_model.safetensors")
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name] * 1.01}, tmp_path / "out/adapter_model.safetensors")
    with pytest.raises(AdapterError, match="differ from the adapter"):
        check_expanded(saved, tmp_path / "out")


def test_options_and_places_are_checked_first(uneven, tmp_path):
    with pytest.raises(RecipeError, match="are for GGUF files"):
        export(str(uneven), "peft", str(tmp_path / "out"), quantize="f16")
    with pytest.raises(RecipeError, match="`vlm` is none of") as caught:
        export(str(uneven), "vlm", str(tmp_path / "out"))
    assert "vllm" in caught.value.hint
    taken = shutil.copytree(uneven, tmp_path / "taken")
    with pytest.raises(OutputError, match="nothing is overwritten"):
        export(str(uneven), "peft", str(taken))
