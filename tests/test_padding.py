"""The padding token is one that the embedding has and no text ends with; tokens that the embedding
does not have are told before weights are loaded."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

import peftkit as pk
from peftkit.adapters.record import Record, tokenizer_sha256
from peftkit.bases.added_tokens import added_rows
from peftkit.bases.loading import load_weights
from peftkit.bases.opened import OpenedBase
from peftkit.bases.padding import NEVER_IN_UTF8, choose_padding
from peftkit.bases.token_ids import check_ids
from peftkit.deploy.merging.merge import merge_to
from peftkit.errors import BaseModelError, DataError
from peftkit.run import run
from peftkit.stages.preparing import prepare
from peftkit.training.forward.collating import collate
from tests.conftest import sentences, write_csv

WORDS = ["film", "great", "awful", "a", "the"]
SPECIAL = {"pad": "<pad>", "eos": "</s>", "bos": "<s>", "unk": "<unk>", "cls": "<cls>"}
TEXTS = ["a", "the great film", "awful", "film ÿ", "a film </s>"]


def tokenizer_of(kinds=(), appended="", bytes_too=False, pad_last=False):
    """One with these special tokens.

    Args:
        appended: kind of the one that it puts at the end of every text.
        bytes_too: whether it is a byte-level one, as GPT-2's.
        pad_last: whether its padding token is the last of the vocabulary.
    """
    special = [SPECIAL[kind] for kind in kinds if not (pad_last and kind == "pad")]
    if bytes_too:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: place for place, token in enumerate([*special, *alphabet])}
        made = Tokenizer(models.BPE(vocabulary, []))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    else:
        vocabulary = {token: place for place, token in enumerate([*special, *WORDS])}
        unknown = SPECIAL["unk"] if "unk" in kinds else None
        made = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown or "film"))
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if pad_last and "pad" in kinds:
        made.add_special_tokens([SPECIAL["pad"]])
    if appended:
        token = SPECIAL[appended]
        made.post_processor = processors.TemplateProcessing(
            single=f"$A {token}", pair=f"$A {token} $B {token}",
            special_tokens=[(token, made.token_to_id(token))],
        )  # fmt: skip
    names = {f"{kind}_token": SPECIAL[kind] for kind in kinds}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names)


def config_of(rows: int, pad: int | None = None):
    return transformers.LlamaConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        vocab_size=rows, pad_token_id=pad, initializer_range=0.5,
    )  # fmt: skip


@given(
    kinds=st.lists(st.sampled_from(sorted(SPECIAL)), unique=True),
    appended=st.sampled_from(["", *sorted(SPECIAL)]),
    bytes_too=st.booleans(),
    pad_last=st.booleans(),
    spare=st.integers(-1, 2),
    one_output=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_it_is_in_the_embedding_and_no_text_ends_with_it(
    kinds, appended, bytes_too, pad_last, spare, one_output
):
    assume(not appended or appended in kinds)
    made = tokenizer_of(kinds, appended, bytes_too, pad_last)
    rows = len(made) + spare
    before, own = made(TEXTS)["input_ids"], made.pad_token
    choose_padding(made, config_of(rows), one_output)
    assert 0 <= made.pad_token_id < rows
    assert made(TEXTS)["input_ids"] == before
    end = None if not appended else made.convert_tokens_to_ids(SPECIAL[appended])
    if one_output:
        assert made.pad_token_id != end
        inside = [kind for kind in kinds if made.convert_tokens_to_ids(SPECIAL[kind]) < rows]
        if len(inside) - (made.pad_token == SPECIAL["unk"]) > 1 or bytes_too:
            assert made.pad_token not in WORDS
    fits = own is not None and made.convert_tokens_to_ids(own) < rows
    if fits and not (one_output and appended == "pad"):
        assert made.pad_token == own
    elif own is None and "eos" in kinds and not (one_output and appended == "eos"):
        assert made.pad_token == SPECIAL["eos"]  # as adapters were trained that exist
    elif own is None and "unk" in kinds and not one_output:
        assert made.pad_token == (SPECIAL["eos"] if "eos" in kinds else SPECIAL["unk"])


def test_a_byte_that_no_text_has_where_there_is_no_other_token():
    made = tokenizer_of(["eos"], "eos", bytes_too=True)
    choose_padding(made, config_of(len(made)), one_output=True)
    assert ord(made.pad_token) in NEVER_IN_UTF8
    assert made.decode([made.pad_token_id]) == "\ufffd"
    for text in ("ÿ", "þ", "a ÿ"):  # two bytes each, of which it is none
        assert made.pad_token_id not in made(text)["input_ids"]


def test_positions_of_the_base_go_by_its_own_padding_token():
    """RoBERTa counts positions from its padding token; one of another id would shift them."""
    made = tokenizer_of(["bos", "pad", "eos"])
    made.add_special_tokens({"pad_token": "[PAD]"})
    choose_padding(made, config_of(len(made) - 1, pad=1), one_output=True)
    assert (made.pad_token, made.pad_token_id) == ("<pad>", 1)


@pytest.fixture
def base_of(tmp_path):
    """A tiny decoder with a tokenizer, as a folder: `base_of(tokenizer, rows)`."""

    def make(made, rows=0) -> Path:
        torch.manual_seed(0)
        config = config_of(rows or len(made))
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
        made.save_pretrained(tmp_path / "base")
        return tmp_path / "base"

    return make


def recipe_of(base: Path, data: Path, **fields):
    return pk.Recipe(
        base=pk.Base(name_or_path=str(base), **fields),
        task=pk.TextClassification(data=pk.Data(path=str(data))),
        method=pk.LoRA(r=2),
        training=pk.Training(max_steps=1, batch_size=8),
    )


def words_only(count: int) -> list[tuple[str, str]]:
    texts = [(" ".join(WORDS[n % 3 :] + WORDS[: n % 4]) + " a" * (n // 5), n) for n in range(count)]
    return [(text, "good" if n % 2 else "bad") for text, n in texts]


@pytest.mark.parametrize("kinds", [("bos", "unk", "eos"), ("eos",), ("pad", "bos", "unk")], ids=str)
def test_a_classifier_reads_the_end_of_texts_that_end_in_a_token(kinds, base_of, tmp_path):
    """In a padded batch as alone; the tokenizer has put the token there, and no row is refused."""
    made = tokenizer_of(kinds, "eos" if "eos" in kinds else "pad", bytes_too=kinds == ("eos",))
    recipe = recipe_of(base_of(made), write_csv(tmp_path / "rows.csv", words_only(60)))
    prepared = prepare(recipe)
    encoded, base = prepared.encoded, prepared.base
    ids = encoded.train.input_ids
    ends = {row[-1] for row in ids}
    assert len(ends) == 1
    assert encoded.pad_token_id not in ends
    loaded = load_weights(base, encoded.head, torch.float32, torch.device("cpu"), None)
    model = loaded.model.eval()
    assert model.config.pad_token_id == encoded.pad_token_id
    batch = collate(encoded.train, range(8), encoded.pad_token_id)
    with torch.no_grad():
        together = model(**batch.inputs).logits
        alone = [model(input_ids=torch.from_numpy(ids[n])[None]).logits[0] for n in range(8)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-5, atol=1e-5)
    shorter = [model(input_ids=torch.from_numpy(ids[n][:-1])[None]).logits[0] for n in range(8)]
    assert (together - torch.stack(shorter)).abs().max() > 0.01  # it reads that token


def test_a_plain_padding_token_is_not_written_as_a_special_one(base_of, tmp_path):
    """Which would cut it out of texts: `ÿ` is a letter, and the token of a byte in no text."""
    folder = base_of(original := tokenizer_of(["eos"], "eos", bytes_too=True))
    recipe = recipe_of(folder, write_csv(tmp_path / "rows.csv", words_only(60)))
    for method in (recipe.method, pk.FullFineTuning()):
        name = method.kind()
        done = run(recipe.with_(method=method), str(tmp_path / name))
        merge_to(str(done.folder), str(tmp_path / f"{name}-merged"))
        expected = pk.load(str(done.folder)).predict(["a film ÿ"])[0]
        for written in (tmp_path / f"{name}-merged", done.folder / "adapter"):
            if not (written / "config.json").is_file():
                continue
            made = transformers.AutoTokenizer.from_pretrained(written)
            assert made.pad_token is None
            assert made("a film ÿ")["input_ids"] == original("a film ÿ")["input_ids"]
            model = transformers.AutoModelForSequenceClassification.from_pretrained(written)
            with torch.no_grad():
                logits = model.eval()(**made("a film ÿ", return_tensors="pt")).logits
            record = json.loads((done.folder / "adapter/peftkit.json").read_text())
            [temperature] = record["decision"]["numbers"]["temperature"]
            found = (logits / temperature).softmax(-1)
            assert float(found.max()) == pytest.approx(expected.probability, abs=1e-5)


def test_a_row_that_ends_in_the_padding_token_by_itself_is_named(base_of, tmp_path):
    rows = [*words_only(40), ("a film </s>", "good")]
    recipe = recipe_of(base_of(tokenizer_of(["eos", "unk"])), write_csv(tmp_path / "r.csv", rows))
    with pytest.raises(DataError, match="row 42 gives no tokens, or ends in the padding token"):
        prepare(recipe)


def test_an_adapter_with_the_padding_token_of_earlier_versions_still_loads(base_of, tmp_path):
    made = tokenizer_of(["unk", "bos"])
    recipe = recipe_of(base_of(made), write_csv(tmp_path / "rows.csv", words_only(60)))
    done = run(recipe, str(tmp_path / "run"))
    adapter = pk.load(str(done.folder))
    assert adapter.tokenizer.pad_token == "<s>"
    expected = adapter.predict(["the film", "great"])
    adapter.tokenizer.pad_token = "<unk>"  # which they chose where there was no other
    record = Record.read(done.folder / "adapter")
    earlier = replace(record, tokenizer_sha256=tokenizer_sha256(adapter.tokenizer))
    earlier.write(done.folder / "adapter")
    again = pk.load(str(done.folder))
    assert again.tokenizer.pad_token == "<unk>"
    assert again.model.config.pad_token_id == again.tokenizer.pad_token_id
    assert again.predict(["the film", "great"]) == expected


def larger(bases, tmp_path, kind="llama", *tokens) -> Path:
    """A base whose tokenizer got tokens, and that was not resized."""
    folder = shutil.copytree(bases[kind], tmp_path / "larger")
    made = transformers.AutoTokenizer.from_pretrained(folder)
    made.add_tokens([token for token in tokens if token != "[PADDING]"])
    if "[PADDING]" in tokens:
        made.add_special_tokens({"pad_token": "[PADDING]"})
    made.save_pretrained(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    config.vocab_size = len(made) - len(tokens)
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_padding_token_that_the_model_never_got_does_no_harm(bases, kind, reviews, tmp_path):
    folder = larger(bases, tmp_path, kind, "[PADDING]")
    recipe = recipe_of(folder, reviews)
    prepared = prepare(recipe)
    [note] = [note for note in prepared.ledger.notes if "tokenizer" in note]
    size = prepared.base.config.vocab_size
    assert note == (
        f"the tokenizer of `{folder}` has {size + 1} tokens, and the embedding {size} rows; no "
        "text has a token without a row, `[PADDING]`"
    )
    assert prepared.encoded.pad_token_id < size
    assert run(recipe, str(tmp_path / "run")).record.status == "finished"


@given(
    new=st.lists(st.sampled_from(["<order>", "<item>", "[PADDING]", "ü", "x9"]), unique=True),
    named=st.integers(0, 5),
    spare=st.integers(-3, 3),
    texts=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=12),
)
@settings(deadline=None, max_examples=150)
def test_texts_pass_if_and_only_if_the_model_has_a_row_for_each_token(new, named, spare, texts):
    made = tokenizer_of(["unk"])
    rows = len(made) + spare
    made.add_tokens(new)
    words = [*WORDS, *new]
    ids = [[made.convert_tokens_to_ids(words[place % len(words)]) for place in text]
           for text in texts]  # fmt: skip
    added = tuple(made.convert_tokens_to_ids(new[:named])) if spare <= 0 else ()
    assume(not added or rows == min(added))  # others are refused before: they do not follow
    base = OpenedBase(pk.Base(name_or_path="tiny"), Path(), config_of(rows), made, added_ids=added)
    table = torch.nn.Embedding(rows + len(added), 4)  # what the model will look them up in

    def fits(text) -> bool:
        try:
            table(torch.tensor(text))
        except IndexError:
            return False
        return True

    if all(fits(text) for text in ids):
        note = check_ids(base, ids)
        assert bool(note) == (len(made) > len(table.weight))
        return
    with pytest.raises(BaseModelError) as caught:
        check_ids(base, ids)
    assert f"has {len(made):,} tokens, and the embedding {rows:,} rows" in caught.value.message
    for token in {made.convert_ids_to_tokens(place) for text in ids for place in text}:
        place = made.convert_tokens_to_ids(token)
        count = sum(place in text for text in ids)
        told = f"`{token}` in {count} text{'s' * (count > 1)}"
        listed = min(5, caught.value.message.count("` in "))
        if place < len(table.weight):
            assert f"`{token}`" not in caught.value.message
        elif listed < 5:
            assert told in caught.value.message


def test_a_word_that_the_model_never_got_is_named_with_its_rows(bases, tmp_path):
    folder = larger(bases, tmp_path, "llama", "<order>", "<item>")
    rows = [(f"{text} <order>" if n % 4 == 0 else text, label)
            for n, (text, label) in enumerate(sentences(80))]  # fmt: skip
    recipe = recipe_of(folder, write_csv(tmp_path / "rows.csv", rows))
    with pytest.raises(BaseModelError) as caught:
        prepare(recipe)
    assert "and the embedding " in caught.value.message
    assert "rows; there is no row for `<order>` in 20 texts" in caught.value.message
    assert "name it in `base.added_tokens`" in caught.value.hint

    with pytest.raises(BaseModelError, match="are not consecutive") as caught:
        prepare(recipe_of(folder, tmp_path / "rows.csv", added_tokens=("<item>", "<order>")))
    assert caught.value.hint == "name all in this order: `<order>`, `<item>`"
    named = recipe_of(folder, tmp_path / "rows.csv", added_tokens=("<order>", "<item>"))
    done = run(named, str(tmp_path / "run"))
    adapter = pk.load(str(done.folder))
    first = adapter.tokenizer.convert_tokens_to_ids("<order>")
    assert adapter.base.added_ids == (first, first + 1)
    assert len(added_rows(adapter.model)["input"]) == 2
    assert adapter.predict(["the <item> film"])


def test_a_question_with_such_a_word_is_refused_too(bases, reviews, tmp_path):
    folder = larger(bases, tmp_path, "llama", "<order>")
    done = run(recipe_of(folder, reviews), str(tmp_path / "run"))
    adapter = pk.load(str(done.folder))
    assert adapter.predict(["the film was great"])
    with pytest.raises(BaseModelError, match="there is no row for `<order>` in 1 text"):
        adapter.predict(["the film", "where is <order>"])


def test_an_embedding_that_is_larger_is_nothing_to_tell(bases, reviews):
    prepared = prepare(recipe_of(bases["llama"], reviews))
    assert prepared.base.config.vocab_size > len(prepared.base.tokenizer)
    assert not [note for note in prepared.ledger.notes if "tokenizer" in note]
