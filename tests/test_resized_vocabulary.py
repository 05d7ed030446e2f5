"""Adapters of plain PEFT that were trained after the vocabulary was resized: the base is resized as
they need, and texts are read with the tokenizer beside them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
)

import peftkit as pk
from peftkit.adapters.resized_vocabulary import HeldRows
from peftkit.adapters.verifying import verify
from peftkit.cli.main import command_line
from peftkit.deploy.merging.folding import merge
from peftkit.errors import AdapterError

NEW = [f"<new{n}>" for n in range(6)]
pytestmark = [
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),  # PEFT's, in saving
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`"),
]


@pytest.fixture(scope="module")
def causal(tmp_path_factory, chat_base):
    """Tiny Llamas whose output layer is tied to the embedding, and is not."""
    folder = tmp_path_factory.mktemp("bases") / "untied"
    shutil.copytree(chat_base, folder)
    config = LlamaConfig.from_pretrained(chat_base, tie_word_embeddings=False)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return {"tied": chat_base, "untied": folder}


def make(
    base: Path, folder: Path, rows: int | None = None, save: Any = "auto", new: Any = NEW,
    auto: Any = AutoModelForCausalLM, **config: Any,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """What plain transformers and PEFT leave of training on a resized base: token ids, and what the
    trained model puts out for them.
    """
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(list(new))
    torch.manual_seed(3)
    model = auto.from_pretrained(base)
    model.resize_token_embeddings(rows or len(tokenizer), mean_resizing=False)
    settings = {"r": 4, "task_type": "CAUSAL_LM", "target_modules": ["q_proj"], **config}
    injected = get_peft_model(model, LoraConfig(**settings))
    for parameter in injected.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    injected.eval().save_pretrained(folder, save_embedding_layers=save)
    tokenizer.save_pretrained(folder)
    last = min(len(tokenizer), rows or len(tokenizer)) - 1
    ids = torch.tensor([[5, 9, last, last - 1, 17, 30]])
    return ids, outputs(injected, ids)


def outputs(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits


WHOLE = {
    "both": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "embedding": {"modules_to_save": ["embed_tokens"]},
    "output": {"modules_to_save": ["lm_head"]},
    "beside": {},
    "adapted": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
}


@pytest.mark.parametrize("tie", ["tied", "untied"])
@pytest.mark.parametrize("name", WHOLE)
def test_the_base_is_resized_and_the_tokenizer_beside_it_read(causal, tmp_path, tie, name):
    base, folder = causal[tie], tmp_path / "a"
    ids, expected = make(base, folder, **WHOLE[name])
    findings = verify(str(folder), str(base))
    assert not findings.problems
    there = AutoModelForCausalLM.from_pretrained(base).get_input_embeddings().num_embeddings
    (told,) = [f.found for f in findings.all if f.check == "vocabulary"]
    assert f"from {there:,} to the adapter's {there + len(NEW):,} tokens" in told
    assert "tokenizer beside it" in told
    assert "not in the adapter" not in told
    adapter = pk.load(str(folder), str(base))
    found = outputs(adapter.model, ids)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-5
    assert adapter.tokenizer.convert_tokens_to_ids(NEW) == list(range(there, there + len(NEW)))
    plain = AutoModelForCausalLM.from_pretrained(base)
    plain.resize_token_embeddings(there + len(NEW), mean_resizing=False)
    plain = PeftModel.from_pretrained(plain, folder).eval()
    assert (outputs(plain, ids) - found).abs().max() < 1e-5
    assert len(adapter.predict([f"Where is {NEW[1]}?"])) == 1


@pytest.mark.parametrize("tie", ["tied", "untied"])
def test_it_is_merged_and_exported(causal, tmp_path, tie, capsys):
    base, folder = causal[tie], tmp_path / "a"
    ids, expected = make(base, folder, **WHOLE["both"])
    given = [str(folder), "--base", str(base)]
    command_line(["merge", *given, "--output", str(tmp_path / "m")])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    assert (outputs(merged, ids) - expected).abs().max() < 1e-4
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert set(NEW) <= set(tokenizer.get_vocab())
    assert (outputs(merge(str(folder), str(base)), ids) - expected).abs().max() < 1e-4
    capsys.readouterr()
    command_line(["export", *given, "--to", "peft", "--output", str(tmp_path / "p")])
    said = capsys.readouterr().out
    rows = merged.get_input_embeddings().num_embeddings
    assert f"base.resize_token_embeddings({rows})" in said
    plain = AutoModelForCausalLM.from_pretrained(base)
    plain.resize_token_embeddings(rows, mean_resizing=False)
    again = PeftModel.from_pretrained(plain, tmp_path / "p").eval()
    assert (outputs(again, ids) - expected).abs().max() < 1e-5
    assert set(NEW) <= set(AutoTokenizer.from_pretrained(tmp_path / "p").get_vocab())
    command_line(["chat", *given, "--once", f"Where is {NEW[2]}?"])


def test_more_rows_than_tokens_and_fewer_are_made(causal, tmp_path):
    base = causal["untied"]
    for rows in (512, 300):
        folder = tmp_path / f"{rows}"
        new = NEW if rows == 512 else ()
        ids, expected = make(base, folder, rows=rows, new=new, **WHOLE["both"])
        if not new:  # fewer rows than the base's own tokenizer needs
            with pytest.raises(
                AdapterError, match=r"has .* tokens, and the adapter.s embeddings have"
            ):
                pk.load(str(folder), str(base))
            continue
        found = outputs(pk.load(str(folder), str(base)).model, ids)
        assert found.shape[-1] == rows
        assert (found - expected).abs().max() < 1e-5


def test_rows_that_are_not_in_the_adapter_are_told(causal, tmp_path):
    for name, tie, missing in (
        ("embedding", "untied", True), ("output", "untied", True), ("both", "untied", False),
        ("embedding", "tied", False),
    ):  # fmt: skip
        folder = tmp_path / f"{name}-{tie}"
        make(causal[tie], folder, save=False, **WHOLE[name])
        findings = verify(str(folder), str(causal[tie]))
        assert not findings.problems
        (told,) = [f.found for f in findings.all if f.check == "vocabulary"]
        assert ("so they are the mean of the others" in told) == missing


def test_rows_that_are_trained_one_by_one_are_enough(causal, tmp_path):
    base, folder = causal["tied"], tmp_path / "a"
    first = AutoModelForCausalLM.from_pretrained(base).get_input_embeddings().num_embeddings
    indices = list(range(first, first + len(NEW)))
    ids, expected = make(base, folder, save=False, trainable_token_indices=indices)
    findings = verify(str(folder), str(base))
    assert not findings.problems
    assert not any("not in the adapter" in f.found for f in findings.all)
    found = outputs(pk.load(str(folder), str(base)).model, ids)
    assert (found - expected).abs().max() < 1e-5


def test_a_classifier_of_a_resized_base(bases, tmp_path):
    folder = tmp_path / "a"
    ids, expected = make(
        bases["bert"], folder, auto=AutoModelForSequenceClassification, task_type="SEQ_CLS",
        target_modules=["query"], modules_to_save=["word_embeddings"],
    )  # fmt: skip
    assert not verify(str(folder), str(bases["bert"])).problems
    adapter = pk.load(str(folder), str(bases["bert"]))
    assert (outputs(adapter.model, ids) - expected).abs().max() < 1e-5
    assert adapter.predict([f"a warm {NEW[0]} film"])


def test_a_new_padding_token_has_its_row(causal, tmp_path):
    base, folder = causal["untied"], tmp_path / "a"
    ids, expected = make(base, folder, new=["<pad it>", *NEW], **WHOLE["both"])
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pad_token": "<pad it>"}))
    adapter = pk.load(str(folder), str(base))
    assert adapter.tokenizer.pad_token == "<pad it>"
    assert adapter.model.config.pad_token_id == adapter.tokenizer.pad_token_id
    assert (outputs(adapter.model, ids) - expected).abs().max() < 1e-5
    assert len(adapter.predict(["Where?", f"What is it, {NEW[0]}?"])) == 2


def test_without_its_tokenizer_both_sizes_are_named(causal, tmp_path, capsys):
    base, folder = causal["untied"], tmp_path / "a"
    make(base, folder, **WHOLE["both"])
    for file in folder.glob("tokenizer*"):
        file.unlink()
    there = AutoModelForCausalLM.from_pretrained(base).get_input_embeddings().num_embeddings
    told = f"a vocabulary of {there + len(NEW):,} tokens, and `{base}` has {there:,}"
    (problem,) = verify(str(folder), str(base)).problems
    assert told in problem.found
    assert "tokenizer" in problem.advice
    for command in (["merge", "--output", str(tmp_path / "m")], ["predict", "--text", "x"]):
        with pytest.raises(SystemExit) as caught:
            command_line([command[0], str(folder), "--base", str(base), *command[1:]])
        assert caught.value.code == 2
        assert told in capsys.readouterr().err
    (folder / "tokenizer.json").write_text("{}")
    (problem,) = verify(str(folder), str(base)).problems
    assert "`tokenizer.json`, cannot be read" in problem.found


def test_a_tokenizer_that_only_has_more_tokens(causal, tmp_path):
    base, folder = tmp_path / "base", tmp_path / "a"
    shutil.copytree(causal["untied"], base)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(512, mean_resizing=False)  # rows to spare, as Qwen has them
    model.save_pretrained(base)
    ids, expected = make(base, folder, rows=512)
    adapter = pk.load(str(folder), str(base))
    assert set(NEW) <= set(adapter.tokenizer.get_vocab())
    assert (outputs(adapter.model, ids) - expected).abs().max() < 1e-5
    other = tmp_path / "b"
    make(causal["untied"], other, save=False)  # nobody has embeddings of its tokens
    findings = verify(str(other), str(causal["untied"]))
    assert not findings.problems
    told = [f.found for f in findings.all if f.check == "vocabulary"]
    assert told == [
        "the adapter's tokenizer has 6 tokens without embeddings; the base's tokenizer is used"
    ]
    adapter = pk.load(str(other), str(causal["untied"]))
    assert not set(NEW) & set(adapter.tokenizer.get_vocab())


def test_a_hostile_template_beside_it_is_not_used(causal, tmp_path):
    base, folder = causal["untied"], tmp_path / "a"
    make(base, folder, **WHOLE["both"])
    loops = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(loops)
    adapter = pk.load(str(folder), str(base))
    assert adapter.tokenizer.chat_template == AutoTokenizer.from_pretrained(base).chat_template


def test_the_layer_whose_new_rows_are_missing_is_named():
    first, rows = 80, 82
    for held, layers in (
        (HeldRows(82, frozenset(), input=True, output=False), ["the output layer"]),
        (HeldRows(82, frozenset({80, 81}), input=False, output=True), []),
        (HeldRows(82, frozenset({80}), input=False, output=True), ["the input embedding"]),
        (HeldRows(82, frozenset(), False, False), ["the input embedding", "the output layer"]),
    ):
        assert held.without_rows_from(first, rows) == layers
        assert held.without_rows_from(rows, rows) == []


def test_a_lora_of_the_embedding_alone_lacks_rows_of_the_output_layer(tmp_path, chat_base):
    import peft
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(chat_base)
    tokenizer.add_tokens(["<aa>", "<bb>"])
    untied = tmp_path / "untied"
    base = transformers.AutoModelForCausalLM.from_pretrained(chat_base, tie_word_embeddings=False)
    torch.nn.init.normal_(base.lm_head.weight)
    base.save_pretrained(untied)
    transformers.AutoTokenizer.from_pretrained(chat_base).save_pretrained(untied)
    base.resize_token_embeddings(len(tokenizer))
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["embed_tokens"])
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "a")
    tokenizer.save_pretrained(tmp_path / "a")
    findings = verify(str(tmp_path / "a"), str(untied))
    (note,) = [finding.found for finding in findings.all if finding.check == "vocabulary"]
    assert "the adapter lacks the new rows of the output layer, so they are the mean" in note
