"""Tasks that write: what a causal base or an encoder-decoder reads, learns and writes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sacrebleu
import torch
from pydantic import ValidationError

import peftkit as pk
from peftkit.data.rows import Row
from peftkit.data.splits import load_splits
from peftkit.errors import BaseModelError, DataError, RecipeError
from peftkit.metrics.bleu import bleu_metric
from peftkit.run import run
from peftkit.stages.preparing import prepare
from tests.conftest import write_jsonl
from tests.tiny_translator import pairs, save_translator

LORA = pk.LoRA(r=8, lora_alpha=16, target_modules="all-linear")


@pytest.fixture(scope="module")
def translated(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", pairs(120))


@pytest.fixture(scope="module")
def make(chat_base, translated):
    """A recipe of translation on the tiny causal base: `make(base=..., **task fields)`."""

    def made(base=chat_base, **task):
        options = {
            "instruction": "Say {source} again.", "samples": 20, "validation_samples": 6,
            "generation": {"max_new_tokens": 24}, "max_length": 64, **task,
        }  # fmt: skip
        return pk.Recipe(
            base=pk.Base(name_or_path=str(base)),
            task=pk.Translation(data=pk.Pairs(path=str(translated)), **options),
            method=LORA,
            training=pk.Training(learning_rate=2e-2, num_epochs=3, batch_size=16, metric="bleu"),
            name="writes",
        )

    return made


@pytest.fixture(scope="module")
def finished(make, tmp_path_factory):
    return run(make(), str(tmp_path_factory.mktemp("runs") / "run"))


def test_a_causal_base_is_asked_in_its_template_and_learns_the_answer_only(make):
    prepared = prepare(make())
    tokenizer, train = prepared.base.tokenizer, prepared.encoded.train
    row = train.row(0)
    whole = tokenizer.decode(train.input_ids[0])
    asked = f"<|im_start|>user\nSay {row.values['text']} again.<|im_end|>\n<|im_start|>assistant\n"
    [target] = row.values["targets"]
    assert asked in whole
    assert whole.startswith(f"{whole.partition(asked)[0]}{asked}{target}<|im_end|>")
    learned = tokenizer.decode(train.targets[train.outputs_of(0)])
    assert learned == f"{target}<|im_end|>"
    [prompt] = [p for p in prepared.encoded.prompts if p.row == prepared.encoded.test.row(0).number]
    text = prepared.encoded.test.row(0).values["text"]
    assert tokenizer.decode(prompt.input_ids).endswith(
        f"Say {text} again.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prepared.encoded.head.task_type == "CAUSAL_LM"


def test_loss_and_gradients_are_those_of_single_texts(make):
    """Packed batches against one example after another with full logits."""
    from torch.nn import functional as F
    from transformers import AutoModelForCausalLM

    from peftkit.bases.devices import open_accelerator
    from peftkit.stages.fitting import engine_of

    prepared = prepare(make())
    model = AutoModelForCausalLM.from_pretrained(prepared.base.folder)
    engine = engine_of(model, prepared, open_accelerator(prepared.recipe.base)).in_layout("packed")
    train = prepared.encoded.train
    engine.gradients(train, [range(6)])
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for example in range(6):
        ids = torch.from_numpy(train.input_ids[example].astype(np.int64))
        at = torch.from_numpy(train.read_at[example].astype(np.int64)).flatten()
        logits = model(input_ids=ids[None]).logits[0]
        expected = torch.from_numpy(train.targets[train.outputs_of(example)].astype(np.int64))
        assert torch.equal(ids[at + 1], expected)
        F.cross_entropy(logits[at], expected, reduction="sum").backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-4, rtol=1e-4)


def test_written_texts_choose_the_weights_and_are_in_the_receipt(make, finished):
    record = finished.record
    assert record.training.metric == "bleu"
    adapter = pk.load(str(finished.folder))
    prompts = prepare(make()).encoded.prompts
    written = [answer.reply for answer in adapter.predict([prompt.text for prompt in prompts])]
    expected = [prompt.expected for prompt in prompts]
    assert record.test.after["bleu"] == pytest.approx(
        sacrebleu.corpus_bleu(written, [expected], force=True).score / 100
    )
    assert record.test.after["chrf"] > record.test.before["chrf"]
    assert {"length_ratio", "empty", "repeating", "copied"} <= {*record.test.after}
    low, high = record.test.intervals["bleu"]
    assert low <= record.test.after["bleu"] <= high
    [table] = [t for t in record.test.tables if t.title == "How written texts are scored"]
    signatures = dict(table.rows)
    assert signatures["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert "smooth:exp" in (finished.folder / "receipt.html").read_text(encoding="utf-8")


def test_the_adapter_in_plain_peft_writes_the_same(finished, chat_base):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chat_base)
    model = AutoModelForCausalLM.from_pretrained(chat_base)
    model = PeftModel.from_pretrained(model, finished.folder / "adapter")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Say bright film word3 again."}], add_generation_prompt=True,
        return_tensors="pt", return_dict=True,
    )  # fmt: skip
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    out = model.generate(**prompt, max_new_tokens=24, do_sample=False, eos_token_id=end)
    text = tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    [answer] = pk.load(str(finished.folder)).predict(["bright film word3"])
    assert answer.reply == text.strip()


def test_long_texts_are_cut_and_counted_and_the_instruction_stays(make):
    encoded = prepare(make(max_length=4, max_target_length=4)).encoded
    tokenizer = prepare(make()).base.tokenizer
    assert encoded.train.truncated > 0
    for ids in encoded.train.input_ids:
        assert "again.<|im_end|>\n<|im_start|>assistant\n" in tokenizer.decode(ids)
        assert tokenizer.decode(ids).rstrip().endswith("<|im_end|>")


def test_long_inputs_are_refused(make):
    prepared = prepare(make(max_length=8))
    long = Row(1, {"text": "bright " * 40})
    with pytest.raises(DataError, match="more than 8 tokens, which is all that is read"):
        prepared.recipe.task.encode_inputs([long], prepared.base, prepared.encoded.head)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"prefix": "translate: "}, "a causal language model, which reads no `task.prefix`"),
        ({"generation": {"max_new_tokens": 250}}, "250 of an answer leave no room for a text"),
        ({"base": "t5"}, "is an encoder-decoder, which reads no `task.instruction`"),
        ({"base": "bert"}, "an encoder, which reads texts but does not continue them"),
    ],
)
def test_bases_and_options_that_do_not_fit(make, bases, tmp_path, options, reason):
    where = {"t5": lambda: save_translator(tmp_path / "t5"), "bert": lambda: bases["bert"]}
    if "base" in options:
        options = {"base": where[options["base"]]()}
    with pytest.raises((RecipeError, DataError, BaseModelError), match=reason):
        prepare(make(**options))


def test_an_instruction_needs_a_place_for_each_text():
    with pytest.raises(ValidationError, match=r"`instruction` has no place `\{source\}`"):
        pk.Translation(data=pk.Pairs(path="a.csv"), instruction="Translate {sorce}")
    with pytest.raises(ValidationError, match=r"`instruction` has no place `\{question\}`"):
        pk.GenerativeAnswering(data=pk.Answered(path="a.csv", context="c"), instruction="{context}")


def splits_of(task):
    return load_splits(task, 0)[0]


def test_several_references_of_which_the_first_is_learned(tmp_path):
    rows = [{"source": f"text {n}", "target": [f"first {n}", "second"]} for n in range(40)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    row = splits_of(pk.Translation(data=pk.Pairs(path=str(path)))).train[0]
    assert row.values["targets"][0].startswith("first")
    assert row.values["targets"][1:] == ("second",)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("", "empty target"), (None, "empty target"), ([], "target is an empty list"),
        (["a", ""], "empty target"), (5, "target is int, not text"),
    ],
)  # fmt: skip
def test_an_empty_reference_is_malformed(tmp_path, target, reason):
    rows = [{"source": f"text {n}", "target": f"other {n}"} for n in range(40)]
    path = write_jsonl(tmp_path / "rows.jsonl", [*rows, {"source": "x", "target": target}])
    with pytest.raises(DataError, match=rf"{reason} \(line 41\)"):
        splits_of(pk.Translation(data=pk.Pairs(path=str(path))))


def test_a_target_that_equals_its_text_is_told(tmp_path):
    rows = [{"source": f"text {n}", "target": f"text {n}"} for n in range(9)]
    rows += [{"source": f"text {n}", "target": f"other {n}"} for n in range(9, 60)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    _, ledger = load_splits(pk.Translation(data=pk.Pairs(path=str(path))), 0)
    assert "9 of 60 rows have a target that equals the text" in ledger.notes


def test_two_text_files_line_by_line(tmp_path):
    source, target = tmp_path / "train.en", tmp_path / "train.de"
    source.write_text("".join(f"line {n}\n" for n in range(40)) + "\n", encoding="utf-8")
    target.write_bytes("".join(f"Zeile {n}\r\n" for n in range(40)).encode() + b"\r\n")
    data = pk.Pairs(path=str(source), translation_path=str(target))
    splits, ledger = load_splits(pk.Translation(data=data), 0)
    rows = [row for part in splits.named().values() for row in part]
    assert len(rows) == 40
    for row in rows:
        assert row.values["text"] == f"line {row.number - 1}"
        assert row.values["targets"] == (f"Zeile {row.number - 1}",)
    assert any("left out 1 line" in note for note in ledger.notes)
    target.write_text("Zeile\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"has 41 lines, and `.*train\.de` has 1"):
        splits_of(pk.Translation(data=data))
    with pytest.raises(DataError, match="no file"):
        splits_of(pk.Translation(data=data.with_(translation_path="none.de")))


def test_languages_inside_the_column_translation(tmp_path):
    rows = [{"translation": {"en": f"text {n}", "de": f"Text {n}"}} for n in range(40)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    data = pk.Pairs(path=str(path), text="en", translation="de")
    assert splits_of(pk.Translation(data=data)).train[0].values["text"].startswith("text")
    with pytest.raises(DataError, match="has no column `fr`"):
        splits_of(pk.Translation(data=data.with_(translation="fr")))


@pytest.mark.parametrize(
    ("target", "chosen"),
    [("Das ist {}.", "13a"), ("这是第{}个软件包", "zh"), ("これは{}番目のものです", "char")],
)
def test_the_tokenizer_of_bleu_follows_the_language(tmp_path, target, chosen):
    rows = [{"source": f"text {n}", "target": target.format(n)} for n in range(40)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    task = pk.Translation(data=pk.Pairs(path=str(path)))
    remembered = task.remembering(splits_of(task))
    assert remembered.bleu_tokenizer == chosen
    assert remembered.metric("bleu").signature == bleu_metric(chosen).signature


def test_a_document_is_summarized(tmp_path, chat_base):
    rows = [
        {"document": f"The {n} lamps are here. " * 3, "summary": f"{n} lamps"} for n in range(60)
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    recipe = pk.Recipe(
        base=pk.Base(name_or_path=str(chat_base)),
        task=pk.Summarization(
            data=pk.Documents(path=str(path)), samples=20, max_target_length=16,
            generation={"max_new_tokens": 8},
        ),
        method=LORA, training=pk.Training(learning_rate=1e-2, num_epochs=1, batch_size=16),
    )  # fmt: skip
    test = run(recipe, str(tmp_path / "run")).record.test
    assert {"rouge_1", "rouge_2", "rouge_l", "copied"} <= {*test.after} or len(
        prepare(recipe).encoded.prompts
    ) < 20
    assert test.after["loss"] < test.before["loss"]


QUESTIONS = [
    (
        {"question": "q", "answers": {"text": ["a", "b", "a"], "answer_start": [0, 1, 0]}},
        ("a", "b"),
    ),
    ({"question": "q", "answers": "a"}, ("a",)),
    ({"question": "q", "answers": ["a", "b"]}, ("a", "b")),
    ({"question": "q", "answers": [{"text": "a"}, {"text": "b"}]}, ("a", "b")),
    ({"question": "q", "answers": '{"text": ["a"]}'}, ("a",)),
    ({"question": "q", "answers": 18}, ("18",)),
    ({"question": "q", "answers": []}, "empty answers"),
    ({"question": "q", "answers": {"start": 3}}, "answers is an object without `text`"),
    ({"question": " ", "answers": "a"}, "empty question"),
    ({"question": "q", "answers": ["a", None]}, "empty an answer in answers"),
]


@pytest.mark.parametrize(("values", "expected"), QUESTIONS)
def test_forms_of_answers(values, expected):
    task = pk.GenerativeAnswering(data=pk.Answered(path="a.jsonl"))
    read = task.read_row(values, None)
    assert (read if isinstance(read, str) else read["targets"]) == expected


def test_a_question_with_a_context(tmp_path, chat_base):
    rows = [
        {"context": f"Mira has {n} lamps.", "question": "How many lamps?", "answers": [f"{n}"]}
        for n in range(60)
    ]
    again = [{**rows[0], "answers": ["zero"]}]
    nothing = [{**row, "question": "Who?", "answers": []} for row in rows[:9]]
    path = write_jsonl(tmp_path / "rows.jsonl", [*rows, *again, *nothing])
    data = pk.Answered(path=str(path), context="context", no_answer="none")
    task = pk.GenerativeAnswering(data=data, generation={"max_new_tokens": 8}, max_target_length=16)
    splits = splits_of(task)
    rows_of = [row for part in splits.named().values() for row in part]
    assert len(rows_of) == 69
    assert ("0", "zero") in [row.values["targets"] for row in rows_of]
    assert sum(row.values["targets"] == ("none",) for row in rows_of) == 9
    recipe = pk.Recipe(base=pk.Base(name_or_path=str(chat_base)), task=task, method=LORA)
    prepared = prepare(recipe)
    text = prepared.base.tokenizer.decode(prepared.encoded.prompts[0].input_ids)
    assert "Answer the question from the text.\n\nText: Mira has" in text
    assert "Question: " in text
    assert task.asked == ("text", "question")
    assert task.metric("f1").signature == "normalization squad"
    assert "exact_number" in task.with_(normalization="number").known_scores


def test_a_text_with_a_place_in_it_is_read_as_it_is(make):
    task = make().task
    from peftkit.tasks.encoding.instructed import filled

    assert (
        filled("{context} {question}", {"context": "{question}", "question": "q"}) == "{question} q"
    )
    assert filled("Use {x}: {source}", {"source": "s"}) == "Use {x}: s"
    assert json.loads(json.dumps(task.model_dump()))["instruction"] == "Say {source} again."


@pytest.mark.parametrize(
    ("language", "count", "word"), [("de", 512, "wurde"), ("zh_Hans", 528, "的")]
)
def test_messages_of_an_interface_are_pairs(language, count, word):
    data = pk.Pairs(path="packaged:django-messages", subset=language)
    splits = splits_of(pk.Translation(data=data))
    rows = [row.values for part in splits.named().values() for row in part]
    assert len(rows) == count
    assert sum(word in row["targets"][0] for row in rows) > 20
    assert not any("\x04" in row["text"] or row["text"] == row["targets"][0] for row in rows)


def test_papers_have_a_summary_of_each_aspect():
    data = pk.Documents(path="packaged:acl-summaries", text="abstract")
    counts = {"train": 100, "validation": 50, "test": 100}
    for subset in ("challenge", "approach", "outcome"):
        splits = splits_of(pk.Summarization(data=data.with_(subset=subset)))
        assert {name: len(rows) for name, rows in splits.named().items()} == counts
    with pytest.raises(DataError, match="has no subset `outcom`; it has `approach`, `challenge`"):
        splits_of(pk.Summarization(data=data.with_(subset="outcom")))
