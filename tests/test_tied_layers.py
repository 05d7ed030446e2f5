"""An adapter on a layer that shares its weight with another one changes that layer alone."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

import peftkit as pk
from peftkit.adapters.probes import outputs_of
from peftkit.bases.loading import load_weights
from peftkit.bases.opening import open_base
from peftkit.deploy.exporting.export import export
from peftkit.deploy.exporting.gguf.exports import _stays_apart, check_ollama, open_for_export
from peftkit.deploy.exporting.gguf.reading import read_gguf
from peftkit.deploy.exporting.request import Request
from peftkit.deploy.merging.folding import merge, merged_model
from peftkit.deploy.merging.merge import merge_to
from peftkit.errors import AdapterError
from peftkit.methods.method import trainable_parameters
from tests.conftest import save_tokenizer
from tests.matrix import Classification, LanguageModel, encoded_of

IDS = list(range(5, 30))
CPU = torch.device("cpu")
SIZE = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "vocab_size": 80, "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip
BASES = {
    "qwen2": ("Qwen2Config", "AutoModelForCausalLM", {**SIZE, "tie_word_embeddings": True}),
    "gemma": ("GemmaConfig", "AutoModelForCausalLM", {**SIZE, "head_dim": 16}),
    "gpt2": (
        "GPT2Config", "AutoModelForCausalLM",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 80, "initializer_range": 0.2},
    ),
    "t5": (
        "T5Config", "AutoModelForSeq2SeqLM",
        {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4, "vocab_size": 80,
         "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 3},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def tied(tmp_path_factory) -> dict[str, Path]:
    """Bases whose output layer, or whose encoder and decoder, have the embedding's weight."""
    folders = {}
    for name, (config_class, auto, size) in BASES.items():
        folders[name] = tmp_path_factory.mktemp("bases") / name
        torch.manual_seed(0)
        config = getattr(transformers, config_class)(**size)
        model = getattr(transformers, auto).from_config(config)
        model.save_pretrained(folders[name])
        save_tokenizer(folders[name], "bert")
    return folders


def lora(*targets, kind=pk.LoRA, **fields):
    return kind(r=4, target_modules=targets, **fields)


CASES = [
    ("qwen2", lora("q_proj", "lm_head")), ("qwen2", lora("embed_tokens")),
    ("qwen2", lora("embed_tokens", "lm_head", "v_proj")), ("gemma", lora("lm_head")),
    ("gemma", lora("q_proj", "embed_tokens")), ("gpt2", lora("wte", "lm_head")),
    ("qwen2", lora("lm_head", "q_proj", kind=pk.DoRA)), ("qwen2", lora("lm_head", kind=pk.PiSSA)),
    ("qwen2", pk.AdaLoRA(target_modules=("lm_head", "q_proj"))),
    ("qwen2", pk.IA3(target_modules=("k_proj", "lm_head"))),
    ("qwen2", pk.PeftMethod(config={"peft_type": "LORA", "target_modules": ["embed_tokens"],
                                    "ensure_weight_tying": True})),
    ("qwen2", pk.PeftMethod(config={"peft_type": "LORA", "target_modules": ["embed_tokens"],
                                    "modules_to_save": ["lm_head"]})),
    ("t5", lora("encoder.embed_tokens", "q")), ("t5", lora("embed_tokens")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("base", "method", "quantization"),
    [*((base, method, "none") for base, method in CASES), (*CASES[0], "nf4"), (*CASES[1], "nf4")],
    ids=lambda value: getattr(value, "kind", lambda: value)(),
)
def test_merged_it_answers_as_beside_the_base(tied, base, method, quantization, tmp_path):
    spec = pk.Base(name_or_path=str(tied[base]), quantization=quantization)
    task = Classification() if base == "t5" else LanguageModel()
    encoded, opened = encoded_of(task), open_base(spec)
    if base == "t5":
        for ids in encoded.train.input_ids:
            ids[-1] = 3
    loaded = load_weights(opened, encoded.head, torch.float32, CPU, None)
    model = method.inject(loaded.model, encoded, loaded.head)
    torch.manual_seed(1)
    for parameter in trainable_parameters(model).values():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    ids = [*IDS, 3]
    expected = outputs_of(model, ids)
    method.save(model, tmp_path)

    recipe = pk.Recipe(base=spec, task=pk.TextClassification(data=pk.Data(path="x")), method=method)
    merged = merged_model(tmp_path, recipe, opened, encoded.head, torch.float32)
    scale = max(1.0, float(expected.abs().max()))
    assert (outputs_of(merged, ids) - expected).abs().max() <= 1e-5 * scale
    assert not merged.config.tie_word_embeddings
    merged.save_pretrained(tmp_path / "merged")
    again = getattr(transformers, encoded.head.auto_class).from_pretrained(tmp_path / "merged")
    assert (outputs_of(again, ids) - expected).abs().max() <= 1e-5 * scale


def test_what_trains_no_tied_layer_leaves_the_tie(tied, tmp_path):
    spec = pk.Base(name_or_path=str(tied["qwen2"]))
    encoded, opened = encoded_of(LanguageModel()), open_base(spec)
    tokens = {"peft_type": "LORA", "target_modules": ["q_proj"], "trainable_token_indices": [7, 8]}
    for method in (lora("q_proj"), pk.PeftMethod(config=tokens), pk.FullFineTuning()):
        loaded = load_weights(opened, encoded.head, torch.float32, CPU, None)
        model = method.inject(loaded.model, encoded, loaded.head)
        merged = method.merge(model)
        assert merged.config.tie_word_embeddings
        assert torch.equal(merged.lm_head.weight, merged.get_input_embeddings().weight)


@pytest.fixture(scope="module", params=["A and B", "whole layers beside them"])
def by_peft_alone(request, chat_base, tmp_path_factory) -> Path:
    """An adapter on the output layer that PEFT has saved, on a base that ties it."""
    folder = tmp_path_factory.mktemp("adapters") / "published"
    base = transformers.AutoModelForCausalLM.from_pretrained(chat_base)
    config = LoraConfig(
        r=4, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    torch.manual_seed(0)
    with warnings.catch_warnings():  # that the layer is tied, and saved whole
        warnings.simplefilter("ignore", UserWarning)
        get_peft_model(base, config).save_pretrained(
            folder, save_embedding_layers=request.param != "A and B"
        )
    return folder


def test_a_published_adapter_is_merged_and_written_for_others(by_peft_alone, chat_base, tmp_path):
    base = str(chat_base)
    report = merge_to(str(by_peft_alone), str(tmp_path / "merged"), base=base)
    assert report.relative <= 1e-5
    written = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    embedding = written.get_input_embeddings()
    assert not written.config.tie_word_embeddings
    assert not torch.equal(written.lm_head.weight, embedding.weight)
    merged = merge(str(by_peft_alone), base)
    assert torch.equal(merged.lm_head.weight, written.lm_head.weight)

    for target, hint in (
        ("gguf-lora", "fold it into the weights with `--to gguf` or `peftkit merge`"),
        ("vllm", "fold it into the weights with `peftkit merge`"),
    ):
        with pytest.raises(AdapterError, match=r"`.*lm_head") as caught:
            export(str(by_peft_alone), target, str(tmp_path / target), base)
        assert caught.value.hint.startswith(hint)
    adapter = open_for_export(Request(str(by_peft_alone), tmp_path / "x", base))
    of_gguf = replace(adapter, base=replace(adapter.base, source=tmp_path / "base.gguf"))
    assert check_ollama(adapter, tokenizer_from="")[1] is None
    assert not _stays_apart(of_gguf)  # Ollama gets the merged model
    export(str(by_peft_alone), "gguf", str(tmp_path / "model.gguf"), base, quantize="f32")
    found = read_gguf(tmp_path / "model.gguf")
    for name, layer in (("output", written.lm_head), ("token_embd", embedding)):
        difference = found.values(f"{name}.weight") - layer.weight.detach().numpy()
        assert abs(difference).max() <= 1e-6
