"""Encoder-decoders of all families: what they begin with, learn, and write."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

import peftkit as pk
from peftkit.adapters.verifying import verify
from peftkit.bases.devices import open_accelerator
from peftkit.deploy.merging.merge import merge_to
from peftkit.errors import RecipeError
from peftkit.run import run
from peftkit.stages.fitting import engine_of
from peftkit.stages.preparing import prepare
from tests.conftest import write_jsonl
from tests.tiny_translator import pairs
from tests.tiny_writers import FAMILIES, LANGUAGES, save_writer


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """Family -> recipe."""
    folder = tmp_path_factory.mktemp("writers")
    path = write_jsonl(folder / "pairs.jsonl", pairs(90))

    def made(family):
        source, target = LANGUAGES.get(family, ("", ""))
        return pk.Recipe(
            base=pk.Base(name_or_path=str(save_writer(folder / family, family))),
            task=pk.Translation(
                data=pk.Pairs(path=str(path)), samples=6, source_language=source,
                target_language=target, generation={"max_new_tokens": 10},
            ),
            method=pk.LoRA(r=4, lora_alpha=8, target_modules="all-linear"),
            training=pk.Training(learning_rate=2e-2, num_epochs=1, batch_size=16),
        )  # fmt: skip

    return {family: made(family) for family in FAMILIES}


SLOW = ("t5", "marian", "mbart50")
"""Families whose runs are left to `make slow`."""
RUN_FAMILIES = [
    pytest.param(family, marks=[pytest.mark.slow] if family in SLOW else []) for family in FAMILIES
]


@pytest.fixture(scope="module")
def run_of(recipes, tmp_path_factory):
    """A function that returns the run of a family, which is made once."""
    folder = tmp_path_factory.mktemp("runs")
    return functools.cache(lambda family: run(recipes[family], str(folder / family)))


def plain_tokenizer(family, folder):
    from transformers import AutoTokenizer

    source, target = LANGUAGES.get(family, (None, None))
    languages = {"src_lang": source, "tgt_lang": target} if source else {}
    return AutoTokenizer.from_pretrained(folder, **languages)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_transformers_labels(recipes, family):
    """One unpadded pair after the other, with the decoder's input by transformers from labels."""
    from transformers import AutoModelForSeq2SeqLM

    prepared = prepare(recipes[family])
    folder, train = prepared.base.folder, prepared.encoded.train
    tokenizer = plain_tokenizer(family, folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    some = range(5)
    engine = engine_of(model, prepared, open_accelerator(prepared.recipe.base))
    loss = float(engine.gradients(train, [some]).loss)
    ours = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    total = 0.0
    for example in some:
        row = train.row(example)
        read = tokenizer(row.values["text"], return_tensors="pt")
        labels = tokenizer(text_target=row.values["targets"][0], return_tensors="pt")["input_ids"]
        alone = model(**read, labels=labels).loss * labels.shape[1]
        alone.backward()
        total += alone.item()
    assert loss == pytest.approx(total, rel=1e-5)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_beginning_gives_another_loss(recipes, family):
    """The test above would see it if the decoder began with a wrong token."""
    from dataclasses import replace

    from transformers import AutoModelForSeq2SeqLM

    from peftkit.data.ragged import Ragged

    prepared = prepare(recipes[family])
    model = AutoModelForSeq2SeqLM.from_pretrained(prepared.base.folder).eval()
    engine = engine_of(model, prepared, open_accelerator(prepared.recipe.base))
    train = prepared.encoded.train
    wrong = [[int(ids[0]) % 4 + 4, *ids[1:].tolist()] for ids in train.inputs["decoder_input_ids"]]
    inputs = {**train.inputs, "decoder_input_ids": Ragged.of(wrong)}
    right = float(engine.gradients(train, [range(5)]).loss)
    other = float(engine.gradients(replace(train, inputs=inputs), [range(5)]).loss)
    assert abs(right - other) > 1e-3 * right


@pytest.mark.parametrize("family", RUN_FAMILIES)
def test_it_writes_in_batches_what_it_writes_alone(recipes, run_of, family):
    adapter = pk.load(str(run_of(family).folder))
    texts = [prompt.text for prompt in prepare(recipes[family]).encoded.prompts]
    together = [answer.reply for answer in adapter.predict(texts)]
    alone = [adapter.predict([text])[0].reply for text in texts]
    assert together == alone
    after = [sample.after for sample in run_of(family).record.test.samples]
    assert after == together
    assert run_of(family).record.test.after["loss"] < run_of(family).record.test.before["loss"]
    assert verify(str(run_of(family).folder)).problems == []


@pytest.mark.parametrize("family", RUN_FAMILIES)
def test_plain_transformers_and_peft_write_the_same(recipes, run_of, family):
    from peft import PeftModel
    from transformers import AutoModelForSeq2SeqLM

    folder = recipes[family].base.name_or_path
    tokenizer = plain_tokenizer(family, folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    model = PeftModel.from_pretrained(model, run_of(family).folder / "adapter").eval()
    target = LANGUAGES.get(family, ("", ""))[1]
    language = tokenizer.convert_tokens_to_ids(target) if target else None
    settings = {  # as the families' model cards say
        "mbart": {"decoder_start_token_id": language}, "mbart50": {"forced_bos_token_id": language},
        "nllb": {"forced_bos_token_id": language},
    }.get(family, {})  # fmt: skip
    settings |= {"max_new_tokens": 10, "forced_eos_token_id": None}
    for sample in run_of(family).record.test.samples[:3]:
        out = model.generate(**tokenizer(sample.prompt, return_tensors="pt"), **settings)
        assert tokenizer.decode(out[0], skip_special_tokens=True).strip() == sample.after


def test_what_is_written_begins_with_the_language(recipes):
    for family, (_, code) in LANGUAGES.items():
        prepared = prepare(recipes[family])
        tokenizer, head = prepared.base.tokenizer, prepared.encoded.head
        language = tokenizer.convert_tokens_to_ids(code)
        first = [ids[0] for ids in prepared.encoded.train.inputs["decoder_input_ids"]]
        if family == "mbart":
            assert set(first) == {language} == {head.generation["decoder_start_token_id"]}
        else:
            assert set(first) == {2}
            assert head.generation["forced_bos_token_id"] == language
            second = [ids[1] for ids in prepared.encoded.train.inputs["decoder_input_ids"]]
            assert set(np.unique(second)) == {language}


@pytest.mark.parametrize(
    ("family", "languages", "reason"),
    [
        ("mbart", ("", "ro_RO"), "needs the languages, and `task.source_language` is empty"),
        ("mbart", ("en_XX", "ro_Ro"), "did you mean `ro_RO`"),
        ("nllb", ("eng_Latn", "Deutsch"), "does not know"),
        ("t5", ("", "de"), "`task.target_language` is given, but .* has no tokens of languages"),
    ],
)
def test_wrong_languages(recipes, family, languages, reason):
    task = recipes[family].task.with_(source_language=languages[0], target_language=languages[1])
    with pytest.raises(RecipeError, match=reason):
        prepare(recipes[family].with_(task=task))


@pytest.mark.parametrize("family", ["bart", "mbart"])
def test_a_merged_model_writes_the_same_and_proves_it(run_of, family, tmp_path):
    report = merge_to(str(run_of(family).folder), str(tmp_path / "merged"))
    assert report.score.merged == pytest.approx(report.score.adapter, abs=1e-5)
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    for sample in run_of(family).record.test.samples[:3]:
        out = model.generate(**tokenizer(sample.prompt, return_tensors="pt"))
        assert tokenizer.decode(out[0], skip_special_tokens=True).strip() == sample.after
