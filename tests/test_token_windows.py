"""Rows of words in windows: every word is read once, at its first token."""

from __future__ import annotations

import random
import string

import numpy as np
import pytest

import peftkit as pk
from peftkit.data.rows import Row
from peftkit.errors import DataError, RecipeError
from peftkit.stages.preparing import prepare
from peftkit.tasks.encoding.token_windows import encode_windows
from tests.conftest import write_jsonl

LETTERS = "abcdefgh"


def word_pieces(special: bool = True):
    """A tokenizer of pieces, as BERT's: each letter is a token of its word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    tokenizer = Tokenizer(
        models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    template = "[CLS] $A [SEP]" if special else "[CLS] $A"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("[CLS]", 2), ("[SEP]", 3)][: 1 + special]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    )


def byte_level(spaced: bool = True):
    """A byte-level tokenizer, as GPT-2's, in which a word in a text begins with its space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = ["the bright film is warm and the story bright"] * 20
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="!", unk_token="!", model_max_length=64
    )


def rows_of(count: int, longest: int) -> list[Row]:
    rng = random.Random(0)
    return [
        Row(n, {"tokens": ["".join(rng.choices(LETTERS, k=rng.randint(1, longest)))
                           for _ in range(rng.randint(1, 12))]})
        for n in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(("max_length", "overlap"), [(10, 4), (10, 0), (12, 5), (9, 1), (64, 8)])
def test_each_word_is_read_once_at_its_first_token(max_length, overlap, special, side):
    tokenizer = word_pieces(special)
    tokenizer.truncation_side = side
    rows = rows_of(60, longest=15)
    targets = [[hash((row.number, word)) % 7 for word in range(len(row.values["tokens"]))]
               for row in rows]  # fmt: skip
    found = encode_windows(rows, targets, tokenizer, max_length, overlap)
    assert tokenizer.truncation_side == side
    assert found.read_at.lengths.min() > 0, "a window of which nothing is read"
    assert found.outputs_per_row().tolist() == [len(row.values["tokens"]) for row in rows]
    seen = set()
    for example in range(len(found)):
        row, of = found.row(example), found.outputs_of(example)
        ids = found.input_ids[example]
        assert len(ids) <= max_length
        for word, place, target in zip(
            found.columns["word"][of], found.read_at[example][:, 0], found.targets[of], strict=True
        ):
            text = row.values["tokens"][word]
            whole = tokenizer(text, add_special_tokens=False)["input_ids"]
            room = len(ids) - place - special
            assert ids[place : place + min(len(whole), room)].tolist() == whole[:room]
            assert target == targets[row.number][word]
            seen.add((row.number, int(word)))
    assert len(seen) == sum(len(row.values["tokens"]) for row in rows)


@pytest.mark.parametrize("of", ["words", "texts"])
def test_an_overlap_of_more_than_half_a_window_is_refused(bases, tmp_path, of):
    rows = [{"tokens": ["the", f"x{n}"], "labels": ["O", "B-X"]} for n in range(20)]
    for n, row in enumerate(rows):
        row.update(text=f"the x{n}", label=n % 2)
    path = str(write_jsonl(tmp_path / "rows.jsonl", rows))
    task = (
        pk.TokenClassification(data=pk.TaggedWords(path=path), max_length=12)
        if of == "words"
        else pk.TextClassification(data=pk.Data(path=path), max_length=12, over_long="windows")
    )
    recipe = pk.Recipe(
        base=pk.Base(name_or_path=str(bases["bert"])), task=task, method=pk.LoRA(r=1)
    )
    prepare(recipe)  # as many tokens as fit
    prepare(recipe.with_(task=task.with_(overlap=5)))
    prepared = prepare(recipe.with_(task=task.with_(overlap=0)))
    wide = recipe.with_(task=task.with_(overlap=6))
    told = "is 6, more than half of a window, which has room for 10 tokens"
    with pytest.raises(RecipeError, match=rf"{told}\n\nhint: give `--task.overlap 5` or"):
        prepare(wide)
    inputs = [Row(1, {"tokens": ["a"] * 30, "text": "a " * 30})]
    of_adapter = wide.task.encode_inputs(inputs, prepared.base, prepared.encoded.head)
    assert of_adapter.input_ids.lengths.max() == 12  # of an older adapter


def test_words_are_the_tokens_that_they_are_in_a_text():
    tokenizer = byte_level()
    words = ["the", "bright", "film"]
    found = encode_windows([Row(1, {"tokens": words})], [[0, 1, 2]], tokenizer, 64, 8)
    text = tokenizer("the bright film")["input_ids"]
    assert found.input_ids[0].tolist() == text
    firsts = [text[place] for place in found.read_at[0][:, 0]]
    assert tokenizer.convert_ids_to_tokens(firsts) == ["the", "\u0120bright", "\u0120film"]


def test_a_tokenizer_that_reads_words_otherwise_than_texts_is_refused():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"<p>": 0, "b_a": 1, "a": 2, "b": 3}, unk_token="<p>"))
    tokenizer.normalizer = normalizers.Replace(" ", "_")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("never", "removed")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<p>", unk_token="<p>", name_or_path="odd"
    )
    with pytest.raises(DataError, match="`odd` splits a word differently alone than in a text"):
        encode_windows([Row(1, {"tokens": ["a"]})], [[0]], fast, 64, 8)


def test_words_without_a_token_are_unknown():
    rows = [Row(1, {"tokens": ["\u2003", "a", "\u2003", "b", "\u2003"]})]
    found = encode_windows(rows, [[0, 1, 2, 3, 4]], word_pieces(), 64, 8)
    assert found.input_ids[0].tolist() == [2, 1, 4, 1, 5, 1, 3]
    assert found.targets.tolist() == [0, 1, 2, 3, 4]
    assert found.unknown_tokens == 3


def test_all_words_of_nothing_are_counted():
    tokenizer = word_pieces()
    tokenizer.unk_token = None
    rows = [Row(1, {"tokens": ["a", "\u2003"]}), Row(2, {"tokens": ["\u2003", "b", "\u2003"]})]
    told = r"row 1: the tokenizer gives no token for the word '\\u2003', nor for 2 words more"
    with pytest.raises(DataError, match=told):
        encode_windows(rows, [[0, 0], [0, 0, 0]], tokenizer, 64, 8)


def test_letters_are_those_of_the_alphabet():
    assert set(LETTERS) < set(string.ascii_lowercase)
    assert (
        np.int32
        == encode_windows(
            [Row(1, {"tokens": ["a"]})], [[0]], word_pieces(), 64, 8
        ).input_ids.values.dtype
    )
