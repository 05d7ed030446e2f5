"""What is exported computes what was trained: by our own reading, and by llama.cpp itself."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import tokenizers
import torch
import transformers
import xllamacpp

import peftkit as pk
from peftkit.adapters.loading import load
from peftkit.bases.dequantized import dequantized
from peftkit.bases.opening import open_base
from peftkit.bases.quantizing import dequantized as dequantized_model
from peftkit.cli.main import command_line
from peftkit.data.packaged import MODELS, find_packaged
from peftkit.deploy.exporting.export import export
from peftkit.deploy.exporting.gguf import model as models
from peftkit.deploy.exporting.gguf.exports import open_for_export, write_checked
from peftkit.deploy.exporting.gguf.families import FAMILIES, Layout
from peftkit.deploy.exporting.gguf.go_template import expand, go_template
from peftkit.deploy.exporting.gguf.lora import check_lora, read_lora, write_lora
from peftkit.deploy.exporting.gguf.ollama import read_modelfile
from peftkit.deploy.exporting.gguf.reading import read_gguf
from peftkit.deploy.exporting.gguf.tokenizer import CUTS, written_fields
from peftkit.deploy.exporting.gguf.writing import write_gguf
from peftkit.deploy.exporting.request import Request
from peftkit.errors import AdapterError, OutputError, RecipeError
from peftkit.methods.peft.adapter_config import read_config
from peftkit.run import run
from tests.chat_formats import BY_NAME, FORMATS

HEADS, KV_HEADS, WIDTH = 4, 2, 16
SIZE = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": HEADS, "head_dim": WIDTH,
    "num_key_value_heads": KV_HEADS, "intermediate_size": 96, "max_position_embeddings": 256,
    "initializer_range": 0.08,
}  # fmt: skip
PARTS = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
    "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
}  # fmt: skip
"""transformers' name of a linear layer -> llama.cpp's."""


def save_base(folder: Path, model_type: str, **settings: Any) -> Path:
    """A tiny random model of an architecture, with a tokenizer and a ChatML template."""
    tokenizer = BY_NAME["ChatML"].tokenizer()
    config = transformers.AutoConfig.for_model(
        model_type, **{**SIZE, "vocab_size": len(tokenizer) + 8, **settings},
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_adapter(folder: Path, base: Path, spread: float = 0.1, **settings: Any) -> Path:
    """An adapter as plain PEFT saves it, whose B is random."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **settings}
    config = peft.LoraConfig(task_type="CAUSAL_LM", **options)
    torch.manual_seed(1)
    model = peft.get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=spread)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def with_peft(base: Path, adapter: Path) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    return peft.PeftModel.from_pretrained(model, str(adapter))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Base and adapter of each architecture, made when they are asked for."""
    folder, made = tmp_path_factory.mktemp("tiny"), {}

    def make(model_type: str, **settings: Any) -> tuple[Path, Path]:
        if (key := (model_type, str(settings))) not in made:
            place = folder / str(len(made))
            base = save_base(place / "base", model_type)
            made[key] = base, save_adapter(place / "adapter", base, **settings)
        return made[key]

    return make


def by_llama_cpp(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows (out, in) of transformers in llama.cpp's order, row by row."""
    ordered = []
    for head in range(heads):
        for frequency in range(WIDTH // 2):
            for half in range(2):
                ordered.append(rows[head * WIDTH + half * WIDTH // 2 + frequency])
    return np.stack(ordered)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_update_of_every_layer_is_that_of_peft(tiny, tmp_path, model_type):
    base, adapter = tiny(model_type)
    export(str(adapter), "gguf-lora", str(tmp_path / "a.gguf"), str(base))
    found = read_gguf(tmp_path / "a.gguf")
    turned = model_type in ("llama", "mistral")
    assert found.fields["general.architecture"] == FAMILIES[model_type].architecture
    assert (found.fields["general.type"], found.fields["adapter.type"]) == ("adapter", "lora")
    model = with_peft(base, adapter)
    merged = with_peft(base, adapter).merge_and_unload()
    names = set()
    for layer in range(2):
        for part, called in PARTS.items():
            name = f"blk.{layer}.{called}.weight"
            names |= {f"{name}.lora_a", f"{name}.lora_b"}
            a, b = found.values(f"{name}.lora_a"), found.values(f"{name}.lora_b")
            update = found.fields["adapter.lora.alpha"] / b.shape[1] * b @ a
            where = f"model.layers.{layer}.{'mlp' if 'ffn' in called else 'self_attn'}.{part}"
            before = model.get_submodule(f"base_model.model.{where}").base_layer.weight
            after = merged.get_submodule(where).weight
            before, after = before.detach().numpy(), after.detach().numpy()
            if turned and part in ("q_proj", "k_proj"):
                heads = HEADS if part == "q_proj" else KV_HEADS
                before, after = by_llama_cpp(before, heads), by_llama_cpp(after, heads)
            np.testing.assert_allclose(before + update, after, atol=2e-6)
    assert set(found.stored) == names


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 8}},
        {"alpha_pattern": {"k_proj": 3, "down_proj": 64}, "rank_pattern": {"k_proj": 6}},
        {"use_rslora": True, "rank_pattern": {"v_proj": 9}, "alpha_pattern": {"v_proj": 5}},
        {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
    ],
    ids=str,
)
def test_scales_that_differ_between_layers_are_kept(tiny, tmp_path, settings):
    base, adapter = tiny("qwen2", **settings)
    export(str(adapter), "gguf-lora", str(tmp_path / "a.gguf"), str(base))
    found = read_gguf(tmp_path / "a.gguf")
    layers = {
        name: module
        for name, module in with_peft(base, adapter).named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }
    assert len(found.stored) == 2 * len(layers)
    for name, module in layers.items():
        _, _, _, _, layer, _, part = name.split(".")
        called = f"blk.{layer}.{PARTS[part]}.weight.lora_"
        a, b = found.values(f"{called}a"), found.values(f"{called}b")
        update = found.fields["adapter.lora.alpha"] / b.shape[1] * b @ a
        expected = module.get_delta_weight("default").detach().numpy()
        np.testing.assert_allclose(update, expected, atol=1e-6)


def test_rows_in_the_wrong_order_are_noticed(tiny, tmp_path):
    base, adapter = tiny("llama")
    opened = open_for_export(Request(str(adapter), tmp_path / "x", str(base)))
    layout = Layout.of(opened.base.config, FAMILIES["llama"])
    lora = read_lora(opened.folder, read_config(opened.folder), opened.base, layout)
    write_lora(tmp_path / "right.gguf", lora, "f32")
    assert check_lora(tmp_path / "right.gguf", lora) == 0.0
    as_they_are = dataclasses.replace(
        layout, family=dataclasses.replace(layout.family, rotates_neighbours=False)
    )
    write_lora(tmp_path / "wrong.gguf", dataclasses.replace(lora, layout=as_they_are), "f32")
    with pytest.raises(AdapterError, match=r"attn_q.weight.lora_b` in the written file differs"):
        check_lora(tmp_path / "wrong.gguf", lora)
    too_few = dataclasses.replace(layout, num_key_value_heads=1)
    write_lora(tmp_path / "heads.gguf", dataclasses.replace(lora, layout=too_few), "f32")
    with pytest.raises(AdapterError, match=r"attn_k.weight.lora_b` in the written file differs"):
        check_lora(tmp_path / "heads.gguf", lora)


def test_float16_is_as_close_as_it_can_be(tiny, tmp_path):
    base, adapter = tiny("qwen3")
    done = export(str(adapter), "gguf-lora", str(tmp_path / "a.gguf"), str(base), quantize="f16")
    assert 0 < done.checked["largest_difference"] <= 2**-11
    assert done.size < 0.6 * (adapter / "adapter_model.safetensors").stat().st_size + 10_000


REFUSED = {
    "dora": ({"use_dora": True}, "the method is DoRA"),
    "bias": ({"bias": "lora_only"}, "the adapter trains biases"),
    "replicated": ({"layer_replication": [[0, 2], [0, 2]]}, "`layer_replication` is set"),
    "saved whole": ({"modules_to_save": ["lm_head"]}, "trains `lm_head` whole"),
    "embedding": ({"target_modules": ["embed_tokens", "q_proj"]}, "lora_embedding_A`"),
    "tokens": ({"trainable_token_indices": [1, 2]}, "`trainable_token_indices` is set"),
    "no scale": ({"lora_alpha": 0}, "the adapter's scale is 0"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_lora_file_cannot_hold_is_refused_without_weights(tiny, tmp_path, what):
    settings, reason = REFUSED[what]
    base, adapter = tiny("qwen2", **settings)
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base/model.safetensors").unlink()
    with pytest.raises(AdapterError, match=reason):
        export(str(adapter), "gguf-lora", str(tmp_path / "a.gguf"), str(tmp_path / "base"))
    assert [file.name for file in tmp_path.iterdir()] == ["base"]


def test_other_architectures_and_methods_are_refused(tmp_path):
    base = save_base(tmp_path / "base", "phi3")
    adapter = save_adapter(tmp_path / "adapter", base)
    with pytest.raises(AdapterError, match="phi3 model; GGUF can be written for `llama`, `mis"):
        export(str(adapter), "gguf-lora", str(tmp_path / "a.gguf"), str(base))
    base = save_base(tmp_path / "llama", "llama")
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoHaConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(model, config).save_pretrained(str(tmp_path / "loha"))
    holds = "the method is LOHA, and a GGUF adapter holds only A and B"
    with pytest.raises(AdapterError, match=holds) as caught:
        export(str(tmp_path / "loha"), "gguf-lora", str(tmp_path / "a.gguf"), str(base))
    for to in ("gguf-lora", "vllm"):  # none advises to merge what cannot be merged
        with pytest.raises(AdapterError, match="the method is LOHA") as caught:
            export(str(tmp_path / "loha"), to, str(tmp_path / "a"), str(base))
        assert "so peftkit does not merge it" in caught.value.hint
    assert "--to gguf" not in caught.value.hint  # which would be refused too


def test_classifiers_are_refused(make_recipe, in_tmp):
    done = run(make_recipe(pk.LoRA(r=2), base="llama", max_steps=1), "runs/c")
    for to in ("gguf-lora", "gguf", "ollama"):
        with pytest.raises(AdapterError, match="classification head"):
            export(str(done.folder), to, "out")
    assert not Path("out").exists()


def test_nothing_is_overwritten_and_targets_are_known(tiny, tmp_path):
    base, adapter = tiny("llama")
    (tmp_path / "there").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        export(str(adapter), "gguf-lora", str(tmp_path / "there"), str(base))
    assert (tmp_path / "there").read_text() == "mine"
    with pytest.raises(RecipeError, match="`gguf_lora` is none of") as caught:
        export(str(adapter), "gguf_lora", str(tmp_path / "new"), str(base))
    assert "did you mean `gguf-lora`?" in caught.value.hint
    with pytest.raises(RecipeError, match="has no tokenizer"):
        export(str(adapter), "gguf-lora", str(tmp_path / "new"), str(base), tokenizer_from="x")
    with pytest.raises(RecipeError, match="too narrow"):
        export(str(adapter), "gguf-lora", str(tmp_path / "new"), str(base), quantize="q8_0")


METHODS = {
    "LoRA": pk.LoRA(r=4, lora_alpha=8),
    "PiSSA": pk.PiSSA(r=4),
    "AdaLoRA": pk.AdaLoRA(init_r=4, target_r=2, tinit=1, tfinal=2),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, chat_base, talks):
    """A run folder of each method on the tiny chat base."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def make(kind: str, **base: Any) -> Path:
        if (key := (kind, str(base))) not in made:
            recipe = pk.Recipe(
                base=pk.Base(**{"name_or_path": str(chat_base), **base}),
                task=pk.Chat(data=pk.Conversations(path=str(talks)), samples=0, system="Be brief."),
                method=METHODS[kind],
                training=pk.Training(max_steps=8, batch_size=4, learning_rate=1e-2),
            )
            made[key] = run(recipe, str(folder / str(len(made)))).folder
        return made[key]

    return make


class LlamaCpp:
    """llama.cpp on a GGUF file, computing in float32 where the weights are."""

    def __init__(self, model: Path, lora: Path | None = None) -> None:
        params = xllamacpp.CommonParams()
        params.model.path, params.n_ctx, params.n_parallel = str(model), 256, 1
        params.warmup, params.verbosity, params.cpuparams.n_threads = False, -1, 1
        params.cpuparams_batch.n_threads = 1
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        if lora:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(lora), 1.0)]
        self.server = xllamacpp.Server(params)

    def complete(self, prompt: list[int], **options: Any) -> dict[str, Any]:
        asked = {"prompt": prompt, "temperature": 0, **options}
        return self.server.handle_completions(asked)["choices"][0]

    def likeliest(self, prompt: list[int]) -> dict[int, float]:
        """The ten likeliest next tokens and their log-probabilities."""
        # told for whole characters only, so a letter is made to follow; they are those before that
        letter = self.tokenize("a")
        answer = self.complete(prompt, n_predict=1, n_probs=10, logit_bias=[[*letter, 1e4]])
        found = answer["logprobs"]["content"][0]["top_logprobs"]
        return {entry["id"]: entry["logprob"] for entry in found}

    def tokenize(self, text: str) -> list[int]:
        request = urllib.request.Request(
            f"{self.server.listening_address}/tokenize",
            json.dumps({"content": text, "parse_special": True, "add_special": False}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["tokens"]


def largest_difference(client: LlamaCpp, model: Any, prompts: list[list[int]]) -> float:
    """Of log-probabilities of the ten likeliest next tokens."""
    differences = []
    for prompt in prompts:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        expected = torch.log_softmax(logits.float(), -1)
        for token, found in client.likeliest(prompt).items():
            differences.append(abs(found - float(expected[token])))
    assert len(differences) == 10 * len(prompts)
    return max(differences)


PROMPTS = [[number, *range(20, 20 + number), 7] for number in range(1, 11)]


@pytest.mark.parametrize("kind", METHODS)
def test_llama_cpp_computes_what_the_method_trained(trained, chat_base, tmp_path, kind):
    """The adapter beside the base, and the merged model; both in float32."""
    folder = trained(kind)
    done = export(str(folder), "gguf-lora", str(tmp_path / "lora.gguf"))
    assert done.checked["largest_difference"] < 1e-6
    export(str(folder), "gguf", str(tmp_path / "merged.gguf"), quantize="f32")
    adapter = load(str(folder))
    base, _ = write_base(adapter, tmp_path / "base.gguf")
    beside = largest_difference(LlamaCpp(base, tmp_path / "lora.gguf"), adapter.model, PROMPTS)
    merged = largest_difference(LlamaCpp(tmp_path / "merged.gguf"), adapter.model, PROMPTS)
    without = largest_difference(LlamaCpp(base), adapter.model, PROMPTS)
    assert beside < 1e-3
    assert merged < 1e-3
    assert without > 1e-2  # the adapter does something


def test_what_was_trained_beside_four_bits_is_merged_with_them(trained, chat_base, tmp_path):
    folder = trained("LoRA", quantization="nf4")
    done = export(str(folder), "gguf-lora", str(tmp_path / "lora.gguf"))
    assert "trained on nf4 weights" in done.notes[0]
    export(str(folder), "gguf", str(tmp_path / "merged.gguf"), quantize="f32")
    adapter = load(str(folder))
    merged = largest_difference(LlamaCpp(tmp_path / "merged.gguf"), adapter.model, PROMPTS)
    plain = load(str(trained("LoRA")))
    base, _ = write_base(plain, tmp_path / "base.gguf")
    beside = LlamaCpp(base, tmp_path / "lora.gguf")
    assert merged < 1e-3
    assert largest_difference(beside, adapter.model, PROMPTS) > 0.05  # as the note says


KINDS = {
    "untied, biases": ("llama", {"tie_word_embeddings": False, "attention_bias": True}),
    "wide heads": ("llama", {"head_dim": 32, "num_key_value_heads": 4}),
    "linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e4, "factor": 4.0}},
    ),
    "llama3": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
            }
        },
    ),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 32, "tie_word_embeddings": False}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_written(tmp_path, kind):
    """llama.cpp computes the base alone, and the base with the adapter beside it."""
    model_type, settings = KINDS[kind]
    base = save_base(tmp_path / "base", model_type, **settings)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(base)
    folder = save_adapter(tmp_path / "adapter", base)
    adapter = load(str(folder), str(base))
    file, fields = write_base(adapter, tmp_path / "x.gguf")
    stops = (adapter.tokenizer.eos_token_id,)
    assert models.check_model(file, model, adapter.base, stops, fields) == 0.0
    assert largest_difference(LlamaCpp(file), model, PROMPTS) < 1e-3
    export(str(folder), "gguf-lora", str(tmp_path / "lora.gguf"), str(base))
    beside = LlamaCpp(file, tmp_path / "lora.gguf")
    assert largest_difference(beside, adapter.model, PROMPTS) < 1e-3
    layout = models.check_writable(adapter.base)
    if layout.family.rotates_neighbours:
        wrong = dataclasses.replace(layout, num_heads=1)
        models.write_model(other := tmp_path / "y.gguf", model, wrong, fields, "f32")
        with pytest.raises(AdapterError, match=r"attn_q.weight` in the written file differs"):
            models.check_model(other, model, adapter.base, stops, fields)


GEMMAS = {
    "gemma": ({}, {}),
    "gemma2": (
        {"query_pre_attn_scalar": WIDTH, "sliding_window": 256},
        {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "gemma3_text": (
        {"query_pre_attn_scalar": WIDTH, "sliding_window": 256}, {"rope.freq_base": 1e6},
    ),
}  # fmt: skip
"""Settings of transformers, and what llama.cpp has to be told beside what all have."""


@pytest.mark.parametrize("model_type", GEMMAS)
def test_llama_cpp_puts_the_adapter_beside_every_gemma(tmp_path, model_type):
    """Whose models are not written by peftkit, but here: its norms are stored with 1 added."""
    settings, told = GEMMAS[model_type]
    base = save_base(tmp_path / "base", model_type, **settings)
    folder = save_adapter(tmp_path / "adapter", base)
    export(str(folder), "gguf-lora", str(tmp_path / "lora.gguf"), str(base))
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    layout = Layout.of(model.config, FAMILIES[model_type])
    architecture = layout.family.architecture
    config = copy.deepcopy(model.config)  # llama.cpp knows the frequencies of Gemma 3's windows
    config.rope_parameters = {"rope_type": "default", "rope_theta": 1e4}
    shared = models.model_fields(config, "f32", "x") | {
        f"{architecture}.{key}": value for key, value in told.items()
    }
    if settings:
        shared[f"{architecture}.attention.sliding_window"] = 256
    tensors = {}
    for key, tensor in model.state_dict().items():
        name = layout.name(key.rpartition(".")[0])
        if "lm_head" not in key:
            tensors[f"{name}.weight"] = (tensor + 1 if "norm" in key else tensor).numpy()
    tokenizer = written_fields(BY_NAME["ChatML"].tokenizer(), model.config.vocab_size)
    write_gguf(tmp_path / "base.gguf", architecture, shared | tokenizer, tensors, "f32")
    client = LlamaCpp(tmp_path / "base.gguf", tmp_path / "lora.gguf")
    trained = with_peft(base, folder)
    assert largest_difference(client, trained, PROMPTS) < 1e-3
    assert largest_difference(LlamaCpp(tmp_path / "base.gguf"), trained, PROMPTS) > 0.5


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings:UserWarning")  # PEFT knows
def test_an_output_layer_that_is_no_longer_tied_is_written(tmp_path):
    base = save_base(tmp_path / "base", "llama", tie_word_embeddings=True)
    folder = save_adapter(tmp_path / "adapter", base, modules_to_save=["lm_head"])
    export(str(folder), "gguf", str(tmp_path / "x.gguf"), str(base), quantize="f32")
    adapter = load(str(folder), str(base))
    assert largest_difference(LlamaCpp(tmp_path / "x.gguf"), adapter.model, PROMPTS) < 1e-3


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings:UserWarning")  # PEFT knows
@pytest.mark.parametrize("targets", [["embed_tokens"], ["q_proj", "lm_head"]], ids=str)
def test_an_embedding_that_is_tied_is_not_merged_into_both(tmp_path, targets):
    base = save_base(tmp_path / "base", "llama", tie_word_embeddings=True)
    folder = save_adapter(tmp_path / "adapter", base, target_modules=targets)
    export(str(folder), "gguf", str(tmp_path / "x.gguf"), str(base), quantize="f32")
    adapter = load(str(folder), str(base))
    assert largest_difference(LlamaCpp(tmp_path / "x.gguf"), adapter.model, PROMPTS) < 1e-3


def test_a_sliding_window_is_refused(tmp_path):
    base = save_base(tmp_path / "base", "mistral", sliding_window=64)
    opened = open_base(pk.Base(name_or_path=str(base)))
    with pytest.raises(AdapterError, match="attends to the last 64 tokens only"):
        models.check_writable(opened)


STRANGE = [
    "It's 12345 lamps, 50% off!!", "don't  stop\n\n\n  now \t x", "订单在哪里？你好",
    "Grüße, ça va", "a1b22c333 d4444", "I'LL we'Ve  ...\r\n", "日本語 2024年", " leading",
    "<|im_start|>user\nHi<|im_end|>",
]  # fmt: skip


@pytest.mark.parametrize("cut", CUTS)
def test_llama_cpp_cuts_texts_as_the_tokenizer_does(tmp_path, cut):
    """With a vocabulary whose words show where a text was cut: digits, spaces, contractions."""
    whole, steps = CUTS[cut].takes_whole, CUTS[cut].steps
    tokenizer = BY_NAME["ChatML"].tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"] |= {"vocab": {}, "merges": [], "ignore_merges": whole}
    state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [as_in_files(s) for s in steps]}
    state["added_tokens"] = []
    trained_here = tokenizers.Tokenizer.from_str(json.dumps(state))
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700, show_progress=False, special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    trained_here.train_from_iterator(STRANGE * 3, trainer)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=trained_here, eos_token="<|im_end|>"
    )
    made.chat_template = tokenizer.chat_template
    base = save_base(tmp_path / "base", "llama", vocab_size=len(made) + 3)
    made.save_pretrained(base)
    adapter = load(str(save_adapter(tmp_path / "adapter", base)), str(base))
    assert written_fields(adapter.tokenizer, len(made) + 3)["tokenizer.ggml.pre"] == cut
    file, fields = write_base(adapter, tmp_path / "x.gguf")
    client = LlamaCpp(file)
    assert client.tokenize(fields[models.PROMPT]) == fields[models.PROMPT_IDS]
    for text in STRANGE:
        expected = adapter.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert client.tokenize(text) == expected, text


def as_in_files(step: dict[str, Any]) -> dict[str, Any]:
    """A step of a tokenizer.json with the fields that do not matter here."""
    more = {
        "ByteLevel": {"trim_offsets": True},
        "Split": {"behavior": "Isolated", "invert": False},
    }.get(step["type"], {})
    return {**more, **step}


def write_base(adapter: Any, file: Path, kind: str = "f32") -> tuple[Path, dict[str, Any]]:
    """The base of an adapter as a GGUF file, and its metadata."""
    stops = tuple(adapter.record.head.generation["eos_token_id"])
    fields = models.model_fields(adapter.base.config, kind, "base")
    fields |= models.tokenizer_fields(adapter.base, stops, "")
    layout = models.check_writable(adapter.base)
    base = dequantized_model(adapter.load_base(), torch.float32)
    models.write_model(file, base, layout, fields, kind)
    return file, fields


def test_other_tokenizers_are_refused_with_a_way_out(trained, tmp_path):
    adapter = load(str(trained("LoRA")))
    for name in ("Llama-2", "Llama-3"):  # words that begin with ▁; cut like Llama 3, not so merged
        with pytest.raises(AdapterError, match="cannot be written into a GGUF file") as caught:
            written_fields(BY_NAME[name].tokenizer(), 1000)
        assert "--tokenizer-from base.gguf" in caught.value.hint
    write_base(adapter, tmp_path / "base.gguf")
    other = str(find_packaged("packaged:smollm2-135m-instruct", MODELS)[1])
    with pytest.raises(AdapterError, match="the tokenizer in the GGUF file is not the base's: it"):
        export(str(trained("LoRA")), "gguf", str(tmp_path / "x.gguf"), tokenizer_from=other)
    done = export(
        str(trained("LoRA")), "gguf", str(tmp_path / "y.gguf"),
        tokenizer_from=str(tmp_path / "base.gguf"),
    )  # fmt: skip
    assert sorted(file.name for file in tmp_path.iterdir()) == ["base.gguf", "y.gguf"]
    assert done.checked["largest_difference"] <= 2**-11


def test_an_added_token_is_refused(trained, tmp_path):
    folder = trained("LoRA", added_tokens=("<order>",))
    for to in ("gguf-lora", "gguf", "ollama"):
        with pytest.raises(AdapterError, match="added to the vocabulary"):
            export(str(folder), to, str(tmp_path / "x"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", ["tensor", "eos", "template", "prompt", "heads"])
def test_a_model_file_that_is_another_is_noticed(trained, tmp_path, change):
    adapter = load(str(trained("LoRA")))
    model, stops = adapter.load_base(), (adapter.tokenizer.eos_token_id,)
    layout = models.check_writable(adapter.base)
    fields = models.model_fields(adapter.base.config, "f16", "x")
    fields |= models.tokenizer_fields(adapter.base, stops, "")
    wrong = dict(fields)
    if change == "tensor":
        other = adapter.load_base()
        other.model.layers[1].mlp.up_proj.weight.data[3, 5] += 0.01
        models.write_model(tmp_path / "x.gguf", other, layout, wrong, "f16")
    else:
        key, value = {
            "eos": ("tokenizer.ggml.eos_token_id", 3), "template": ("tokenizer.chat_template", "x"),
            "prompt": (models.PROMPT_IDS, [1, 2]), "heads": ("llama.attention.head_count", 2),
        }[change]  # fmt: skip
        wrong[key] = value
        models.write_model(tmp_path / "x.gguf", model, layout, wrong, "f16")
    with pytest.raises(
        AdapterError, match=r"in the written file differs|metadata that was written is wrong"
    ):
        models.check_model(tmp_path / "x.gguf", model, adapter.base, stops, fields)


def test_nothing_is_left_of_a_file_that_fails_its_check(tmp_path):
    def fail(partial: Path) -> None:
        assert partial.is_file()
        raise AdapterError("it is another")

    with pytest.raises(AdapterError):
        write_checked(tmp_path / "x", lambda partial: partial.write_text("1"), fail)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_ollama_writes_prompts_as_the_template_of_training(form):
    tokenizer = form.tokenizer()

    def render(messages):
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )

    template = go_template(render)
    talk = [
        {"role": role, "content": f"{role} says {number} {{{{ }}}}"}
        for number in range(4)
        for role in ("user", "assistant")
    ][:-1]
    assert expand(template, talk) == render(talk)
    if form.takes_system:
        talk = [{"role": "system", "content": "Be brief,\nplease."}, *talk]
        assert expand(template, talk) == render(talk)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ loop.index }}. {{ m.content }}\n{% endfor %}",
        "{% for m in messages %}{{ m.role }}: {{ m.content | upper }}\n{% endfor %}",
        "{% for m in messages %}[{{ m.content }}]{% endfor %}{{ '{{' }}",
        "{{ messages[-1].content }}",
        "{% for m in messages %}{{ m.content }}{{ m.content | length }};{% endfor %}",
    ],
)  # fmt: skip
def test_templates_that_go_by_more_than_roles_are_refused(template):
    tokenizer = BY_NAME["ChatML"].tokenizer()

    def render(messages):
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, chat_template=template, add_generation_prompt=True
        )

    with pytest.raises(AdapterError, match="cannot be written for Ollama"):
        go_template(render)


def test_an_ollama_folder_holds_all_that_answers_need(trained, tmp_path):
    folder = trained("LoRA")
    done = export(str(folder), "ollama", str(tmp_path / "o"))
    assert sorted(file.name for file in (tmp_path / "o").iterdir()) == ["Modelfile", "model.gguf"]
    assert done.checked["merged"]
    said = read_modelfile((tmp_path / "o/Modelfile").read_text())
    assert said["FROM"] == ["./model.gguf"]
    assert said["SYSTEM"] == ["Be brief."]
    assert 'stop "<|im_end|>"' in said["PARAMETER"]
    assert {"num_ctx 256", "temperature 0"} <= set(said["PARAMETER"])
    tokenizer = load(str(folder)).tokenizer
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}]
    text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert expand(said["TEMPLATE"][0], talk) == text


def test_the_command_line_exports(trained, tmp_path, capsys):
    for to in ("gguf-lora", "gguf", "ollama"):
        options = ["export", str(trained("LoRA")), "--to", to, "--output", str(tmp_path / to)]
        command_line([*options, "--json"])
        told = json.loads(capsys.readouterr().out)
        assert (told["to"], told["output"]) == (to, str(tmp_path / to))
        assert (tmp_path / to).exists()
        assert told["bytes"] > 10_000


SMOLLM2 = "packaged:smollm2-135m-instruct"
QUESTIONS = [
    "What is the capital of France?", "Tell me a joke.", "How do lamps work?", "2 + 2?", "你好",
    "Name three colours.", "Why is the sky blue?", "Write a haiku.", "Who wrote Hamlet?", "Why?",
]  # fmt: skip


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """SmolLM2 with an adapter, its LoRA file, ten prompts as texts and as tokens."""
    folder = tmp_path_factory.mktemp("smollm2")
    source = find_packaged(SMOLLM2, MODELS)[1]
    save_adapter(folder / "adapter", dequantized(source), spread=0.02, r=8)
    export(str(folder / "adapter"), "gguf-lora", str(folder / "lora.gguf"), SMOLLM2)
    adapter = load(str(folder / "adapter"), SMOLLM2)
    texts = [
        adapter.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        for question in QUESTIONS
    ]
    prompts = [adapter.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return adapter, folder, source, texts, prompts


@pytest.mark.slow
def test_llama_cpp_answers_as_smollm2_with_its_adapter(smollm2, tmp_path):
    """Beside the base in float32."""
    adapter, folder, source, texts, prompts = smollm2
    base, _ = write_base(adapter, tmp_path / "base.gguf")
    client = LlamaCpp(base, folder / "lora.gguf")
    assert [client.tokenize(text) for text in texts] == prompts
    assert largest_difference(client, adapter.model, prompts) < 1e-3
    assert check_texts(client, adapter, prompts[:3]) == 0
    done = export(str(folder / "adapter"), "ollama", str(tmp_path / "ollama"), SMOLLM2)
    assert not done.checked["merged"]
    said = read_modelfile((tmp_path / "ollama/Modelfile").read_text())
    assert (said["FROM"], said["ADAPTER"]) == ([str(source.resolve())], ["./adapter.gguf"])


@pytest.mark.slow
def test_beside_smollm2_as_it_is_published_llama_cpp_rounds_as_without_an_adapter(smollm2):
    """In Q4_1: what is multiplied with 4-bit weights is rounded to 8 bits."""
    adapter, folder, source, _, prompts = smollm2
    published = LlamaCpp(source, folder / "lora.gguf")
    with_adapter = largest_difference(published, adapter.model, prompts)
    without = largest_difference(LlamaCpp(source), adapter.load_base(), prompts)
    assert with_adapter < 1.5 * without < 0.6


@pytest.mark.slow
def test_llama_cpp_answers_as_the_merged_smollm2(smollm2, tmp_path):
    """In float16."""
    adapter, folder, _, texts, prompts = smollm2
    export(str(folder / "adapter"), "gguf", str(tmp_path / "m.gguf"), SMOLLM2)
    client = LlamaCpp(tmp_path / "m.gguf")
    assert [client.tokenize(text) for text in texts] == prompts
    assert largest_difference(client, adapter.model, prompts) < 0.02
    assert check_texts(client, adapter, prompts[:3], near=0.04) <= 1


def check_texts(client: LlamaCpp, adapter: Any, prompts: list[list[int]], near: float = 0.0) -> int:
    """Greedy answers of 20 tokens, of transformers and of llama.cpp, are the same, or go apart
    where the two likeliest tokens are nearly as likely; gives how many do.

    Args:
        near: difference of log-probabilities that counts as nearly.
    """
    apart = 0
    for prompt in prompts:
        ids = torch.tensor([prompt])
        written = adapter.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        expected = written.sequences[0, len(prompt) :].tolist()
        text = client.complete(prompt, n_predict=20)["text"]
        if text == adapter.tokenizer.decode(expected, skip_special_tokens=True):
            continue
        apart += 1
        found = adapter.tokenizer(text, add_special_tokens=False)["input_ids"]
        place = next(
            i for i, pair in enumerate(zip(expected, found, strict=False)) if pair[0] != pair[1]
        )
        logits = written.logits[place][0]
        assert logits.max() - logits[found[place]] < near
    return apart
