"""Question answering: SQuAD files and rows, windows, places of characters, loss, chosen spans, the
answer "none", scores by three normalizations, runs.
"""

from __future__ import annotations

import csv
import json
import random
import runpy

import numpy as np
import pytest
import torch

import peftkit as pk
from peftkit.adapters.verifying import verify
from peftkit.cli.main import command_line
from peftkit.data.packaged import MODELS, find_packaged
from peftkit.data.reading import read_file
from peftkit.data.rows import Row
from peftkit.data.splits import load_splits
from peftkit.deploy.merging.merge import merge_to
from peftkit.errors import PeftkitError
from peftkit.metrics.answers import exact_match, f1, longest_common_run, units
from peftkit.run import run
from peftkit.stages.preparing import prepare
from peftkit.tasks.encoding.question_windows import (
    OFFSETS,
    TOKEN,
    Limits,
    characters,
    covering,
    encode_questions,
)
from peftkit.tasks.reading.answer_spans import read_answers
from peftkit.tasks.reading.question_rows import read_answered
from peftkit.tasks.scoring.passages import marked_passage
from peftkit.tasks.scoring.span_decoding import RowOutputs, Span, best_threshold, decode
from peftkit.tasks.span_loss import SpanCrossEntropy
from peftkit.training.forward.self_check import choose_engine
from tests.conftest import BAD, FILLER, GOOD, write_jsonl
from tests.engines import engine_of
from tests.matrix import save_architecture

# Rows


def squad(*questions: dict, title: str = "Town", context: str = "the film was warm") -> dict:
    return {"title": title, "paragraphs": [{"context": context, "qas": list(questions)}]}


def asked(number: int, text: str = "warm", start: int = 13, **more) -> dict:
    answers = [{"text": text, "answer_start": start}] if text else []
    return {"id": f"q{number}", "question": f"how was {number}", "answers": answers, **more}


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def test_a_squad_file_has_a_row_for_each_question(tmp_path):
    articles = [squad(asked(1), asked(2, "", is_impossible=True)), squad(asked(3), title="")]
    for value in ({"version": "2.0", "data": articles}, articles):
        table = read_file(write_json(tmp_path / "a.json", value))
        rows = [values for _, values in table.rows]
        assert [row["id"] for row in rows] == ["q1", "q2", "q3"]
        assert rows[1]["is_impossible"] is True
        assert rows[0]["context"] == "the film was warm"
        assert "title" not in rows[2]
        assert not table.malformed
        assert table.notes == ()
    both = {"train": {"data": articles}, "dev": {"data": articles[:1]}}
    splits = tmp_path / "b.json"
    write_json(splits, both)
    with pytest.raises(PeftkitError, match="holds the splits `train`, `validation`"):
        read_file(splits)


def test_what_is_no_question_in_a_squad_file_is_named(tmp_path):
    value = {"data": [squad(asked(1), "no object"), {"title": "x"}]}
    table = read_file(write_json(tmp_path / "a.json", value))
    assert [(bad.number, bad.kind) for bad in table.malformed] == [(2, "not an object")]
    task = pk.QuestionAnswering(data=pk.Questions(path="-"))
    assert task.read_row({"title": "x"}, table) == "empty question"


CONTEXT = "我在北京😀😀工作, and warm is it"
PLACE = CONTEXT.index("warm")
FORMS = {
    "HF": {"answers": {"text": ["warm"], "answer_start": [PLACE]}},
    "SQuAD": {"answers": [{"text": "warm", "answer_start": PLACE}]},
    "JSON in a cell": {"answers": json.dumps({"text": ["warm"], "answer_start": [PLACE]})},
    "text and start": {"answers": "warm", "answer_start": str(PLACE)},
    "a text that is there once": {"answers": "warm"},
    "lists in two columns": {"answers": ["warm"], "answer_start": [PLACE]},
}


@pytest.mark.parametrize("form", FORMS)
def test_answers_are_read_in_each_form(form):
    row = {"context": CONTEXT, "question": "how", **FORMS[form]}
    data = pk.Questions(path="-")
    table = type("Table", (), {"name": "t", "columns": tuple(row), "rows": (1,), "malformed": ()})
    read = pk.QuestionAnswering(data=data).read_row(row, table)
    assert read["answers"] == (("warm", PLACE),)
    marked = {**row, "context": f"\ufeff{CONTEXT}", "question": "\ufeffhow"}
    if form == "a text that is there once":
        read = pk.QuestionAnswering(data=data).read_row(marked, table)
        assert read == {
            "context": CONTEXT, "question": "how", "answers": (("warm", PLACE),), "shift": 1,
        }  # fmt: skip


def of(text, start):
    return {"text": [text], "answer_start": [start]}


BYTES = len(CONTEXT[:PLACE].encode())
UTF16 = len(CONTEXT[:PLACE].encode("utf-16-le")) // 2
WRONG = [
    ({"answers": of("warm", BYTES)},
     f"answer `warm` is not at {BYTES}; found at {PLACE}: the start counts bytes, not characters"),
    ({"answers": of("warm", UTF16)}, f"found at {PLACE}: the start counts UTF-16 units"),
    ({"answers": of("warm", PLACE + 1)}, f"found at {PLACE}: the start counts from 1, not from 0"),
    ({"answers": of("warm", 3)}, f"answer `warm` is not at 3; found at {PLACE} "),
    ({"answers": of("cold", 3)}, "answer `cold` is not in the context, at 3 or elsewhere"),
    ({"answers": of("warm", -2)}, "answer_start is -2, before the context"),
    ({"answers": of("warm", 3.0)}, "answer_start is `3.0`, not a whole number"),
    ({"answers": {"text": ["warm", "it"], "answer_start": [3]}}, "has 2 texts and 1 start"),
    ({"answers": [{"text": "", "answer_start": 3}]}, "an answer is empty"),
    ({"answers": of(7, 3)}, "an answer is 7, not text"),
    ({"answers": "it"}, "the answer `it` is not in the context|has the answer `it`"),
    ({"answers": {"start": [3]}}, "answers is an object without `text`"),
    ({"answers": {"text": None, "answer_start": None}}, "answers is an object without `text`"),
    ({"answers": None}, "no answers; give an empty list if the context has no answer"),
    ({"answers": of("", 3)}, "an answer is empty"),
    ({"answers": of("WARM", PLACE)}, "it is there with other upper and lower case"),
    ({"answers": "ｗarm"}, "it is there in another Unicode form"),  # noqa: RUF001
    ({"answers": of("warm", PLACE), "is_impossible": True}, "true, but there is an answer, `warm`"),
    ({"answers": [], "is_impossible": False}, "no answer, but is_impossible is false"),
    ({"answers": [], "is_impossible": "maybe"}, "is `maybe`, neither true nor false"),
    ({"answers": 7}, "answers is int, not text"),
    ({"context": "  "}, "question without a context"),
    ({"context": None}, "question without a context"),
    ({"question": ""}, "empty question"),
    ({"question": ["a"]}, "question is list, not text"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "told"), WRONG)
def test_what_is_wrong_with_a_question_is_named(tmp_path, change, told):
    right = {"context": CONTEXT, "question": "how", "answers": of("warm", PLACE)}
    rows = [{**right, "question": f"how {n}", "context": f"{CONTEXT} {n}"} for n in range(20)]
    rows[6] = {"id": "q7", **right, "context": CONTEXT.replace("it", "it it"), **change}
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(PeftkitError, match=rf"1 of 20 rows .*question q7: .*({told}).*\(line 7\)"):
        load_splits(pk.QuestionAnswering(data=pk.Questions(path=str(path))), 0)


def test_questions_about_a_context_stay_in_one_split_and_articles_if_asked(tmp_path):
    articles = [
        {"title": f"T{n % 10}", "paragraphs": [
            {"context": f"the film {n} was warm", "qas": [
                {"id": f"{n}-{k}", "question": f"how {k}", "answers":
                 [{"text": "warm", "answer_start": len(f"the film {n} was ")}]}
                for k in range(3)]}]}
        for n in range(30)
    ]  # fmt: skip
    path = write_json(tmp_path / "a.json", {"data": articles})
    data = pk.Questions(path=str(path))
    splits, ledger = load_splits(pk.QuestionAnswering(data=data), 0)
    contexts = [{row.values["context"] for row in rows} for rows in splits.named().values()]
    assert sum(map(len, contexts)) == 30
    assert any("`--task.data.group title` keeps each article" in note for note in ledger.notes)
    _, ledger = load_splits(pk.QuestionAnswering(data=data.with_(group="title")), 0)
    assert ledger.notes == ()


def test_answers_that_look_like_nothing_are_read():
    context = "None of them came in [2010]"
    names = ("answers", "answer_start", "is_impossible")
    assert read_answers("None", 0, None, context, names) == (("None", 0),)
    assert read_answers("[2010]", None, None, context, names) == (("[2010]", 21),)
    assert read_answers("", "", None, context, names) == ()
    assert read_answers(None, None, True, context, names) == ()


def test_a_byte_order_mark_is_removed_from_an_answer_too():
    data, row = pk.Questions(path="-"), {"context": "\ufeffPlan B", "question": "which"}
    read = read_answered({**row, "answers": of("\ufeffPlan", 0)}, data)
    assert read["answers"] == (("Plan", 0),)


def test_a_question_that_two_people_answered_has_both_answers(tmp_path):
    rows = [
        {"context": f"it was warm and wet {n}", "question": "how", "answers": answers}
        for n in range(30)
        for answers in (of("warm", 7), of("warm and wet", 7), of("warm", 7))[: 1 + n % 3]
    ]
    rows += [
        {"context": "nobody knows", "question": "how", "answers": answers}
        for answers in (of("nobody", 0), [])
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    splits, ledger = load_splits(pk.QuestionAnswering(data=pk.Questions(path=str(path))), 0)
    (read,) = ledger.read
    assert (read.kept, read.duplicate, read.conflicting) == (30, 30, 2)
    kept = [row.values["answers"] for rows in splits.named().values() for row in rows]
    assert sorted(map(len, kept)) == [1] * 10 + [2] * 20
    assert all(answers[-1][0] in ("warm", "warm and wet") for answers in kept)


# Windows


@pytest.fixture(scope="module")
def minilm():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(find_packaged("packaged:minilm-l6", MODELS)[1])


@pytest.fixture(scope="module")
def e5():
    from peftkit.bases.opening import open_base

    return open_base(pk.Base(name_or_path="packaged:multilingual-e5-small")).tokenizer


def words(rng: random.Random, count: int) -> list[str]:
    return [rng.choice(FILLER) for _ in range(count)]


def rows_of(count: int, longest: int = 70) -> list[Row]:
    rng, rows = random.Random(0), []
    for number in range(count):
        context = " ".join(words(rng, rng.randint(1, longest)))
        starts = [0, *(place + 1 for place, char in enumerate(context) if char == " ")]
        start = rng.choice(starts)
        text = " ".join(context[start:].split()[: rng.randint(1, 4)])
        answers = ((text, start),) if number % 4 else ()
        question = " ".join(words(rng, rng.randint(1, 5)))
        rows.append(Row(number, {"context": context, "question": question, "answers": answers}))
    return rows


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("max_length", "overlap"), [(24, 8), (24, 0), (24, 99), (31, 5), (512, 9)])
def test_each_token_is_read_once_where_it_has_more_context(minilm, max_length, overlap, last):
    rows = rows_of(60)
    found = encode_questions(rows, minilm, Limits(max_length, overlap, reads_last=last))
    for number, row in enumerate(rows):
        question, context = (
            minilm(row.values[name], add_special_tokens=False)["input_ids"]
            for name in ("question", "context")
        )
        room = max_length - len(question) - 3
        step = room - min(overlap, room // 2)
        windows = np.flatnonzero(found.row_of == number)
        read = {}
        ends: tuple[list[int], list[int]] = ([], [])
        for place, window in enumerate(windows):
            part = context[place * step : place * step + room]
            ids = found.input_ids[window].tolist()
            assert ids == [101, *question, 102, *part, 102]
            types = [0] * (len(question) + 2) + [1] * (len(part) + 1)
            assert found.inputs["token_type_ids"][window].tolist() == types
            of_window = found.outputs_of(window)
            tokens = found.columns[TOKEN][of_window]
            places = found.read_at[window][:, 0]
            (none,) = np.flatnonzero(tokens < 0)
            assert places[none] == (len(ids) - 1 if last else 0)
            assert (np.diff(places) > 0).all()
            for token, at in zip(tokens, places, strict=True):
                if token >= 0:
                    assert ids[at] == context[token]
                    inside = at - len(question) - 2
                    assert token not in read
                    read[token] = min(inside, len(part) - 1 - inside)
            for target, of_side in zip(found.targets[of_window].T, ends, strict=True):
                if target.any():
                    assert target.sum() == 1
                    of_side.append(int(tokens[target.argmax()]))
                else:  # the other end is read here
                    of_side.append(-2)
        assert sorted(read) == list(range(len(context)))
        for token, depth in read.items():
            others = [
                min(token - n * step, min(n * step + room, len(context)) - 1 - token)
                for n in range(len(windows))
            ]
            assert depth == max(others)
        wanted = [[token for token in of_side if token >= 0] for of_side in ends]
        if not row.values["answers"]:
            assert wanted == [[], []]
            continue
        ((text, start),) = row.values["answers"]
        first = len(row.values["context"][:start].split())
        assert wanted == [[first], [first + len(text.split()) - 1]]


def test_a_question_that_leaves_no_room_is_named(minilm):
    row = Row(3, {"context": "the film " * 30, "question": "the " * 40, "answers": ()})
    with pytest.raises(
        PeftkitError, match=r"row 3: the question `the the .*` takes 43 of 48 tokens"
    ):
        encode_questions([row], minilm, Limits(48, 8))
    empty = Row(4, {"context": "\u200b", "question": "why", "answers": ()})
    with pytest.raises(PeftkitError, match="row 4: the tokenizer gives no token for the context"):
        encode_questions([empty], minilm, Limits(48, 8))


TEXTS = {
    "emoji": ("I love 👍🏽 and 😀😀 a lot", ["👍🏽", "😀😀", "a lot", "I"]),
    "full-width": ("价格是１２３元（ＡＢＣ）", ["１２３", "ＡＢＣ", "价格", "元"]),  # noqa: RUF001
    "combining marks": ("the cafe\u0301 in A\u030angstro\u0308m is old",
                        ["cafe\u0301", "A\u030angstro\u0308m", "old"]),
    "joined": ("a \ufb01ne ½ of it", ["\ufb01ne", "½", "of it"]),
    "marks of vowels": ("वह नहीं है जी", ["नहीं", "है", "जी"]),
    "syllables": ("x 각 한글 \u1100\u1161\u11a8 y", ["한글", "각", "\u1100\u1161\u11a8"]),
    "spaces": ("  the\u3000film\n was \xa0warm ", ["film", "was", "warm", "the\u3000film"]),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("base", ["minilm", "e5"])
def test_places_are_those_of_the_characters(base, name, request):
    tokenizer = request.getfixturevalue(base)
    context, answers = TEXTS[name]
    for text in answers:
        start = context.index(text)
        row = Row(1, {"context": context, "question": "why", "answers": ((text, start),)})
        found = encode_questions([row], tokenizer, Limits(64, 8))
        tokens, offsets = found.columns[TOKEN], found.columns[OFFSETS]
        first, last = (int(tokens[side.argmax()]) for side in found.targets.T)
        begin, end = characters(context, offsets[tokens >= 0], first, last)
        assert context[begin:end] == text


def test_an_answer_inside_a_token_becomes_the_token(minilm, bases, tmp_path):
    offsets = np.array([(0, 3), (4, 8), (9, 12)])
    assert covering(offsets, 5, 10) == (1, 2)
    assert covering(offsets, 3, 4) is None
    rng = random.Random(0)
    rows = []
    for number in range(40):
        context = f"word{number % 9} " + " ".join(words(rng, 8))
        rows.append({"context": context, "question": f"the {number}", "answers": of("ord", 1)})
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    recipe = pk.Recipe(
        base=pk.Base(name_or_path=str(bases["bert"])), method=pk.LoRA(r=2),
        task=pk.QuestionAnswering(data=pk.Questions(path=str(path))),
    )  # fmt: skip
    notes = " ".join(prepare(recipe).ledger.notes)
    assert "40 answers of 40 began or ended inside a token" in notes
    assert "the tokens allow EM 0.00 or little more on the test split" in notes


# Loss and spans


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_loss_is_that_of_single_unpadded_windows(kind, bases):
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bases[kind])
    limits = Limits(40, 8, reads_last=kind == "llama", segments=kind == "bert")
    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_pretrained(bases[kind]).eval()
    examples = encode_questions(rows_of(12), tokenizer, limits)
    indices = list(range(len(examples)))
    expected = torch.zeros(())
    for index in indices:
        ids = {
            name: torch.from_numpy(column[index]).long()[None]
            for name, column in examples.inputs.items()
        }
        out = model(**ids)
        at = torch.from_numpy(examples.read_at[index][:, 0]).long()
        targets = torch.from_numpy(examples.targets[examples.outputs_of(index)])
        for logits, target in zip((out.start_logits, out.end_logits), targets.T, strict=True):
            if target.any():
                expected = expected + torch.nn.functional.cross_entropy(
                    logits[0, at][None], target.argmax()[None]
                )
    expected = expected / 2
    expected.backward()
    expected = expected.detach()
    reference = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    head = pk.QuestionAnswering(data=pk.Questions(path="-")).expected_head
    for layout in ("padded", "packed"):
        model.zero_grad()
        engine = engine_of(model, head, layout, SpanCrossEntropy())
        step = engine.gradients(examples, [tuple(indices[:5]), tuple(indices[5:])])
        assert float(step.loss) == pytest.approx(float(expected), rel=1e-5)
        for name, parameter in model.named_parameters():
            if name in reference:
                torch.testing.assert_close(parameter.grad, reference[name], rtol=2e-3, atol=1e-5)
    model.zero_grad()
    chosen = choose_engine(engine, examples, pk.FullFineTuning(), ["packed"], gradients=True)
    assert chosen.engine.layout == "packed"
    assert chosen.notes == ()
    assert SpanCrossEntropy().count(examples, indices) == len(examples)


def test_an_empty_process_adds_nothing(bases, minilm):
    from peftkit.training.forward.collating import collate

    examples = encode_questions(rows_of(3), minilm, Limits(64, 8))
    batch = collate(examples, (), 0)
    values = torch.randn(len(batch.targets), 2)
    assert float(SpanCrossEntropy().total(values, batch)) == 0


def outputs_from(seed: int, tokens: int, windows: int) -> RowOutputs:
    rng = np.random.default_rng(seed)
    context = "x " * tokens
    offsets = np.array([(2 * n, 2 * n + 1) for n in range(tokens)])
    row = Row(1, {"context": context, "question": "", "answers": ()})
    draw = lambda rows: rng.normal(size=(rows, 2)).astype(np.float32)  # noqa: E731
    return RowOutputs(row, draw(tokens), offsets, draw(windows))


@pytest.mark.parametrize("most", [1, 3, 30])
@pytest.mark.parametrize("tokens", [1, 2, 17])
def test_the_best_spans_are_those_of_all(most, tokens):
    for seed in range(5):
        outputs = outputs_from(seed, tokens, windows=3)
        none = outputs.none.sum(axis=1).min()
        every = sorted(
            (-(outputs.logits[i, 0] + outputs.logits[j, 1] - none), 2 * i, 2 * j + 1)
            for i in range(tokens)
            for j in range(i, min(tokens, i + most))
        )[:5]
        found = decode(outputs, most, 5)
        assert [(span.start, span.end) for span in found.spans] == [(a, b) for _, a, b in every]
        assert [span.score for span in found.spans] == pytest.approx([-s for s, _, _ in every])
        assert decode(outputs, most).spans == found.spans[:1]
        assert 0 < found.probability <= 1
        assert (found.num_windows, found.num_tokens) == (3, tokens)


def test_the_threshold_is_the_best_of_all():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        margins = rng.integers(-3, 4, 12).astype(float)
        gains = rng.normal(size=12)
        limit = best_threshold(margins, gains)
        best = max(gains[margins > other].sum() for other in np.arange(-5, 6) + 0.5)
        assert gains[margins > limit].sum() == pytest.approx(best)
        assert limit not in margins


def test_a_passage_shows_both_answers():
    context = "a" * 200 + "NO" + "b" * 400 + "YES" + "c" * 200
    pieces = marked_passage(context, ("YES", 602), Span("NO", 200, 202, 1.0))
    assert [(p.text, p.kind) for p in pieces if p.kind != "neither"] == [
        ("NO", "predicted"), ("YES", "expected"),
    ]  # fmt: skip
    assert sum(len(piece.text) for piece in pieces) < 400
    assert [p.text for p in pieces].count(" … ") == 3
    inner = marked_passage("the warm film", ("warm film", 4), Span("the warm", 0, 8, 1.0))
    assert [(p.text, p.kind) for p in inner] == [
        ("the ", "predicted"), ("warm", "both"), (" film", "expected"),
    ]  # fmt: skip
    assert marked_passage("the film", None, None)[0].text == "the film"


# Scores


SQUAD = [
    ("The Normans!", ["normans"], 1, 1),
    ("a the an", ["the"], 1, 1),
    ("in the 10th century", ["10th and 11th centuries"], 0, 2 / 7),
    ("10th", ["11th", "the 10th", "10th century"], 1, 1),
    ("big big cat", ["big cat cat"], 0, 2 / 3),
    ("", ["cat"], 0, 0),
    ("cat", [], 0, 0),
    ("", [], 1, 1),
    ("the", [], 1, 1),
    ("", ["The"], 1, 1),
    ("A", ["A", "grade A"], 0, 0),
]  # fmt: skip
CMRC = [
    ("《北京》。", ["北京"], 1, 1),
    ("北京大学", ["北京"], 0, 2 * 1 * 0.5 / 1.5),
    ("京北", ["北京"], 0, 0.5),
    ("北大京", ["北京大"], 0, 2 / 6),
    ("NBA 总冠军", ["nba总冠军"], 0, 1),
    ("2003年3月", ["2003年"], 0, 2 * 2 / 6),
    ("3.5 米", ["3.5米"], 0, 1),
    ("25", ["25℃"], 0, 0),
    ("don't", ["do"], 0, 2 / 3),
    ("a|b", ["a"], 0, 0),
    ("", ["北京"], 0, 0),
]
DRCD = [
    ("「臺灣」", ["臺灣"], 1, 1),
    ("灣臺", ["臺灣"], 0, 1),
    ("臺灣 大學", ["臺灣大學"], 1, 1),
    ("臺北", ["臺灣", "北京"], 0, 0.5),
    ("臺臺北", ["臺北"], 0, 2 * 2 / 5),
]


@pytest.mark.parametrize(
    ("normalization", "predicted", "answers", "exact", "score"),
    [(name, *case) for name, cases in (("squad", SQUAD), ("cmrc2018", CMRC), ("drcd", DRCD))
     for case in cases],
)  # fmt: skip
def test_scores_are_those_computed_by_hand(normalization, predicted, answers, exact, score):
    assert exact_match(predicted, answers, normalization) == exact
    assert f1(predicted, answers, normalization) == pytest.approx(score)


def test_units_of_mixed_text():
    assert units("《红楼梦》 by Cao·Xueqin, 1791年", "cmrc2018") == [
        "红", "楼", "梦", "by", "caoxueqin", ",", "1791", "年",
    ]  # fmt: skip
    assert longest_common_run("abcde", "xbcdx") == 3
    assert longest_common_run("", "a") == 0


# Runs


def question(rng: random.Random, answerable: float = 1.0) -> dict:
    """Asks for the bright or the dark words of a context, which follow each other."""
    parts = [words(rng, rng.randint(1, 12)) for _ in range(3)]
    runs = {
        "bright": rng.sample(GOOD, rng.randint(1, 2)),
        "dark": rng.sample(BAD, rng.randint(1, 2)),
    }
    kinds = list(runs)
    rng.shuffle(kinds)
    kind = rng.choice(kinds)
    has = rng.random() < answerable
    shown = [runs[name] if name != kind or has else [] for name in kinds]
    context = " ".join([*parts[0], *shown[0], *parts[1], *shown[1], *parts[2]])
    text = " ".join(runs[kind])
    answers = [{"text": text, "answer_start": context.index(text)}] if has else []
    return {"context": context, "question": f"{kind} film", "answers": answers}


@pytest.fixture(scope="module")
def finished(bases, tmp_path_factory):
    """Runs with and without questions that have no answer, on an encoder and on a decoder."""
    folder, rng = tmp_path_factory.mktemp("questions"), random.Random(0)
    some = write_jsonl(folder / "some.jsonl", [question(rng, 0.7) for _ in range(300)])
    every = write_jsonl(folder / "every.jsonl", [question(rng) for _ in range(240)])
    recipes = {}
    for name, path, base, rate, epochs in (
        ("some", some, "bert", 5e-3, 10), ("every", every, "llama", 1e-2, 4),
    ):  # fmt: skip
        recipes[name] = pk.Recipe(
            base=pk.Base(name_or_path=str(bases[base])), name=name,
            task=pk.QuestionAnswering(
                data=pk.Questions(path=str(path)), max_length=28, overlap=8, max_answer_tokens=4
            ),
            method=pk.LoRA(r=8, lora_alpha=32, target_modules="all-linear"),
            training=pk.Training(learning_rate=rate, num_epochs=epochs, batch_size=16),
        )  # fmt: skip
    return {name: run(recipe, str(folder / name)) for name, recipe in recipes.items()}


@pytest.mark.parametrize("name", ["some", "every"])
def test_it_is_trained_scored_verified_and_merged(finished, name, tmp_path):
    done = finished[name]
    test = done.record.test
    assert test.after["f1"] > 0.75
    assert test.after["f1"] > test.before["f1"] + 0.3
    assert verify(str(done.folder)).problems == []
    report = merge_to(str(done.folder), str(tmp_path / "merged"))
    assert report.relative <= report.tolerance
    scores = json.loads((done.folder / "by_example.json").read_text())
    for metric, (low, high) in test.intervals.items():
        assert low <= test.after[metric] <= high
        values, rows = np.array(scores[metric]["columns"])
        assert values.sum() / rows.sum() == pytest.approx(test.after[metric])
    values, windows = np.array(scores["loss"]["columns"])
    assert values.sum() / windows.sum() == pytest.approx(test.after["loss"], rel=1e-4)
    kinds = {"has_answer_f1", "has_answer_exact_match", "no_answer_f1", "no_answer_exact_match"}
    assert kinds.issubset(test.after) == (name == "some")
    titles = [chart.title for chart in test.charts]
    assert ("F1 by threshold" in titles) == (name == "some")
    assert "Scores by number of windows" in titles
    receipt = (done.folder / "receipt.html").read_text()
    assert '--text "..." --question "..."' in receipt
    assert '{"context": "...", "question": "..."}' in receipt
    assert '<mark class="expected">' in receipt
    card = (done.folder / "adapter" / "README.md").read_text()
    assert '--text "..." --question "..."' in card
    assert "Each token has a start and an end logit" in card


@pytest.mark.parametrize("architecture", ["ModernBERT", "RoBERTa", "T5", "GPT-2"])
def test_other_architectures_answer(architecture, tmp_path):
    rng = random.Random(0)
    path = write_jsonl(tmp_path / "rows.jsonl", [question(rng) for _ in range(24)])
    base = save_architecture(tmp_path / "base", architecture)
    recipe = pk.Recipe(
        base=pk.Base(name_or_path=str(base), max_unknown_tokens=1), name="other",
        task=pk.QuestionAnswering(data=pk.Questions(path=str(path)), max_length=28, overlap=8),
        method=pk.LoRA(r=2, target_modules="all-linear"), training=pk.Training(max_steps=2),
    )  # fmt: skip
    done = run(recipe, str(tmp_path / "run"))
    assert done.record.probes.max_difference < 1e-5
    asked = {"context": "the film was dark", "question": "dark film"}
    (answer,) = pk.load(str(done.folder)).predict([asked])
    assert asked["context"][answer.start : answer.end] == answer.text


def test_the_threshold_is_chosen_where_training_has_questions_without_answers(finished):
    saved = {
        name: json.loads((done.folder / "adapter" / "peftkit.json").read_text()).get("decision")
        for name, done in finished.items()
    }
    assert list(saved["some"]["numbers"]) == ["no_answer"]
    assert not (saved["every"] or {}).get("numbers")
    test = finished["some"].record.test
    assert test.baseline["majority"]["f1"] == pytest.approx(0.3, abs=0.1)
    assert "no answer" in finished["some"].record.ledger.splits["test"].strata
    assert finished["every"].record.ledger.splits["test"].strata == {}
    every = [v.metrics["f1"] for v in finished["some"].record.training.validations]
    assert max(every) == finished["some"].record.training.best_value


def test_a_question_is_answered_with_its_place(finished, tmp_path, capsys):
    folder = str(finished["some"].folder)
    adapter = pk.load(folder)
    context = "\ufeffthe film was dark and the story of a scene was bright in it"
    long = f"{context} {'the a film ' * 30}"
    asked = [{"context": text, "question": f"{kind} film"}
             for text in (context, long) for kind in ("dark", "bright")]  # fmt: skip
    none = {"context": "the film was in the story", "question": "dark film"}
    *answers, last = adapter.predict([*asked, none])
    for one, answer, right in zip(asked, answers, ["dark", "bright"] * 2, strict=True):
        assert answer.text == right
        assert one["context"][answer.start : answer.end] == right
        assert answer.has_answer
        assert 0 < answer.probability <= 1
        assert len(answer.alternatives) == 2
        assert answer.score > answer.alternatives[0].score
    assert not last.has_answer
    assert (last.text, last.start, last.end) == ("", None, None)
    options = ["--text", context, "--question", "dark film"]
    command_line(["predict", folder, *options])
    out = capsys.readouterr().out
    assert out.startswith("dark  ")
    assert out.endswith("characters 14 to 18\n")
    command_line(["predict", folder, *options, "--json"])
    (found,) = json.loads(capsys.readouterr().out)["answers"]
    assert (found["question"], found["text"], found["start"]) == ("dark film", "dark", 14)
    command_line(["predict", folder, "--text", none["context"], "--question", "dark film"])
    assert capsys.readouterr().out.startswith("no answer  ")
    rows = {"data": [squad(asked_of("dark film"), context=context), squad(asked_of("dark film"))]}
    file, out = write_json(tmp_path / "in.json", rows), tmp_path / "out.csv"
    command_line(["predict", folder, "--file", str(file), "--out", str(out)])
    with out.open(encoding="utf-8") as opened:
        first, second = csv.DictReader(opened)
    assert (first["predicted"], first["start"], first["end"]) == ("dark", "14", "18")
    assert second["predicted"] == second["start"] == ""
    assert len(json.loads(first["alternatives"])) == 2


def asked_of(text: str) -> dict:
    return {"id": "1", "question": text}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--text", "a film"], "the input has no question"),
        (["--text", "a", "--question", " "], "`--question` number 1 is empty"),
        (["--text", "a", "--text", "b", "--question", "c"], "2 `--text`, but 1 `--question`"),
        (["--text", "a", "--text-pair", "c"], "QuestionAnswering reads no `--text-pair`"),
    ],
)
def test_what_is_missing_in_a_question_is_said(finished, options, told, capsys):
    with pytest.raises(SystemExit):
        command_line(["predict", str(finished["every"].folder), *options])
    assert told in capsys.readouterr().err


def test_other_tasks_read_no_question(make_recipe, reviews):
    from peftkit.deploy.answering.inputs import given_inputs

    task = make_recipe().task
    with pytest.raises(PeftkitError, match="TextClassification reads no `--question`"):
        given_inputs({"text": ["a"], "question": ["b"]}, task)
    assert task.asked == ("text",)


def test_the_best_answers_get_the_best_scores(finished):
    recipe = pk.Recipe.from_json(finished["some"].record.recipe.text)
    assert recipe.task.has_unanswerable is True
    encoded = prepare(recipe).encoded
    task, test = recipe.task, encoded.test
    assert len(test) > len(test.rows)
    right = 20 * test.targets.astype(np.float32)
    decision = task.decide(right, test, encoded.head)
    score = task.metrics(right, test, encoded.head, decision)
    assert score.metrics["f1"] == score.metrics["exact_match"] == 1
    assert score.mistakes == ()
    assert recipe.with_(training=recipe.training.with_(metric="em")).metric == "exact_match"
    always = task.metrics(right, test, encoded.head, type(decision)())
    assert always.metrics["no_answer_f1"] < 0.1  # an article alone is no answer either
    assert always.metrics["has_answer_f1"] == 1
    assert always.mistakes[0].expected == "no answer"


def test_no_answers_in_training_are_refused(tmp_path):
    rng = random.Random(0)
    rows = [{**question(rng, 0.0)} for _ in range(30)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(PeftkitError, match=r"none of the .* training questions has an answer"):
        load_splits(pk.QuestionAnswering(data=pk.Questions(path=str(path))), 0)


def test_windows_share_at_most_half_of_their_tokens(bases, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [question(random.Random(n)) for n in range(30)])
    task = pk.QuestionAnswering(data=pk.Questions(path=str(path)), max_length=32)
    recipe = pk.Recipe(
        base=pk.Base(name_or_path=str(bases["bert"])), task=task, name="half", method=pk.BitFit()
    )
    assert prepare(recipe).encoded.train  # the usual number is lowered
    with pytest.raises(PeftkitError, match=r"`task.overlap` is 20, more than half of a window"):
        prepare(recipe.with_(task=task.with_(overlap=20)))


def test_a_recipe_is_written_for_questions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    rows = [question(rng, 0.9) for _ in range(40)]
    write_json(tmp_path / "a.json", {"data": [squad(
        {"id": str(n), "question": row["question"], "answers": row["answers"]},
        context=row["context"],
    ) for n, row in enumerate(rows)]})  # fmt: skip
    flat = [
        {"passage": row["context"], "query": row["question"], "answer": one["text"],
         "answer_start": one["answer_start"]}
        for row in rows for one in row["answers"]
    ]  # fmt: skip
    write_jsonl(tmp_path / "b.jsonl", flat)
    for file, columns in (
        ("a.json", {"context": "context", "question": "question", "answers": "answers"}),
        ("b.jsonl", {"context": "passage", "question": "query", "answers": "answer",
                     "answer_start": "answer_start"}),
    ):  # fmt: skip
        command_line(["new", file[0], "--data", file])
        task = runpy.run_path(f"{file[0]}.py")["recipe"]().task
        assert type(task) is pk.QuestionAnswering
        assert dict(task.columns) == columns
        load_splits(task, 0)
