"""Adapters of masked language models, for which PEFT has no task, load with the head they have."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

import peftkit as pk
from peftkit.adapters.verifying import verify
from peftkit.deploy.merging.folding import merge
from tests.conftest import save_tokenizer

SIZE = {
    "vocab_size": 80,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
    "pad_token_id": 0,
}
KINDS = {
    "distilbert": ({"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}, ["q_lin"]),
    "albert": ({"embedding_size": 16}, ["query"]),
    "deberta-v2": ({}, ["query_proj"]),
    "modernbert": (
        {"cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}, ["Wqkv"],
    ),
    "bert": ({}, ["query"]), "roberta": ({}, ["query"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """A base of each kind."""
    places = {}
    for kind, (own, _) in KINDS.items():
        sizes = {} if "dim" in own else {
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 48,
        }  # fmt: skip
        config = transformers.AutoConfig.for_model(kind, **SIZE, **sizes, **own)
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(kind)
        transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
        save_tokenizer(folder, "bert")
        places[kind] = folder
    return places


def trained(base: Path, folder: Path, targets: list[str]) -> torch.nn.Module:
    """A LoRA that plain PEFT has saved, without a task."""
    model = transformers.AutoModelForMaskedLM.from_pretrained(base)
    injected = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets))
    for name, parameter in injected.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    injected.save_pretrained(folder)
    return injected.eval()


IDS = torch.arange(4, 20)[None]


@pytest.mark.parametrize("kind", KINDS)
def test_it_answers_as_it_was_trained(masked, tmp_path, kind):
    model = trained(masked[kind], tmp_path, KINDS[kind][1])
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        found = pk.load(str(tmp_path), str(masked[kind])).model(input_ids=IDS).logits
        merged = merge(str(tmp_path), str(masked[kind]))(input_ids=IDS).logits
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(merged, expected, rtol=1e-3, atol=1e-4)
    assert not verify(str(tmp_path), str(masked[kind])).problems


@given(st.permutations(sorted(KINDS)))
def test_another_base_is_told_as_another_base(masked, tmp_path_factory, kinds):
    one, other = kinds[:2]
    folder = tmp_path_factory.getbasetemp() / f"of-{one}"
    if not folder.is_dir():
        trained(masked[one], folder, KINDS[one][1])
    (problem,) = verify(str(folder), str(masked[other])).problems
    assert f"fit no model of `{masked[other]}`" in problem.found
    assert "give the base it was trained on" in problem.advice
