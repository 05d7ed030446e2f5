"""Files in other encodings than UTF-8: told with the likeliest encoding first, or read."""
# ruff: noqa: RUF001 - other alphabets

from __future__ import annotations

import json
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit.data.encodings import likely_encodings
from peftkit.data.reading import read_source
from peftkit.data.source import Data
from peftkit.data.splits import load_splits
from peftkit.data.text_files import ENOUGH_BYTES, encoding_hint
from peftkit.errors import DataError, RecipeError
from peftkit.parts.problems import parse
from peftkit.tasks.text_classification import TextClassification

TEXTS = {
    "cp1252": [
        "Schöne Größe, tschüß aus Köln", "Le garçon a mangé près de l'hôtel où il était",
        "El niño comió piñas en la montaña más alta", "it’s a film – for “everyone”",
        "Não há emoção nem coração nesta canção", "En skön låt från förra året",
        "Schöne Größe, übermäßig teuer für die Qualität", "Straße gesperrt",
        "NICHT FÜR ÄLTERE GERÄTE", "Café crème à la carte", "We flew from São Paulo", "100°", "©",
        "½ cup", "7×9", "costs £5", "Ångström", "El Niño", "Für portable Dokumente",
    ],
    "cp1250": [
        "Příliš žluťoučký kůň úpěl ďábelské ódy", "Zażółć gęślą jaźń, proszę bardzo",
        "Árvíztűrő tükörfúrógép, nagyon jó",
    ],
    "iso8859_2": [
        "Święta są już za tydzień, życzę miłego dnia", "Děkuji, zboží dorazilo včas, šest",
    ],
    "cp1251": [
        "Привет, как дела? Это хороший фильм", "Отличный товар, рекомендую всем друзьям",
        "НЕ ПОКУПАЙТЕ ЭТОТ ТОВАР", "заказал iPhone через приложение",
    ],
    "koi8_r": ["Привет, как дела? Это хороший фильм", "доставка была быстрой"],
    "koi8_u": ["Дякую, все прийшло вчасно, їй дуже сподобалось"],
    "cp866": ["Спасибо, всё пришло вовремя"],
    "cp1253": ["Ευχαριστώ πολύ, όλα ήρθαν στην ώρα τους"],
    "cp1255": ["תודה רבה, הכל הגיע בזמן", "הסרט היה ארוך מדי"],
    "cp1256": ["شكرا جزيلا، وصل كل شيء في الوقت المحدد", "اين فيلم خيلي خوب بود، مي\u200cخواهم"],
    "cp874": ["ขอบคุณมาก ของมาถึงตรงเวลา"],
    "cp1254": ["Çok güzel bir film, şiddetle öneririm, iyi ışık"],
    "cp1257": [
        "Ačiū, viskas atėjo laiku, žmonės malonūs", "Paldies, viss atnāca laikā, ļoti labi šķiet",
    ],
    "cp850": ["Schöne Grüße, für ältere Geräte"],
    "mac_roman": ["Merci, tout est arrivé très tôt, ça marche"],
    "gb18030": [
        "这部电影很好看，我非常喜欢", "物流太慢了，客服态度也不好", "用iPhone拍的照片很清楚",
    ],
    "big5": ["這部電影很好看，我非常喜歡"],
    "shift_jis": ["この映画はとても面白かったです", "配送が遅くて困りました"],
    "euc_jp": ["届くのが早くて助かりました"],
    "euc_kr": ["이 영화는 정말 재미있었어요", "배송이 너무 느려요"],
}  # fmt: skip
CASES = [(encoding, text) for encoding, texts in TEXTS.items() for text in texts]


@settings(max_examples=100, deadline=None)
@given(
    case=st.sampled_from(CASES),
    around=st.lists(st.text("abcdefg ,.", min_size=1, max_size=20), min_size=1, max_size=6),
    times=st.integers(1, 5),
)
def test_the_likeliest_encoding_gives_the_text_that_was_written(case, around, times):
    encoding, text = case
    raw = "\n".join(f"{word} {text} {word}" for word in around * times).encode(encoding)
    guesses = likely_encodings(raw)
    assert raw.decode(guesses[0]) == raw.decode(encoding)
    assert encoding != "cp1252" or guesses[0] == encoding  # of those with the same text
    for guess in guesses:
        read = raw.decode(guess)
        assert not any(unicodedata.category(c) in ("Cn", "Co") for c in read)
        words = [w for w in re.findall(r"[^\W\d_]+", read) if not w.isascii()]
        assert 2 * sum(len(scripts(word)) > 1 for word in words) <= len(words)


def scripts(word: str) -> set[str]:
    """The alphabets of a word's letters; Chinese characters stand beside any."""
    alphabets = {"LATIN", "GREEK", "CYRILLIC", "HEBREW", "ARABIC", "THAI"}
    return {unicodedata.name(c).split()[0] for c in word} & alphabets


@pytest.mark.parametrize("encoding", ["euc_kr", "shift_jis", "gb18030"])
@pytest.mark.parametrize("shift", range(4))
def test_a_character_that_the_sample_cuts_misleads_nobody(tmp_path, encoding, shift):
    lines = ["x" * shift + ",a", *(f"{text},b" for text in TEXTS[encoding] * 9000)]
    path = tmp_path / "r.csv"
    path.write_bytes("\n".join(["text,label", *lines]).encode(encoding))
    assert path.stat().st_size > ENOUGH_BYTES
    assert f"give `--task.data.encoding {encoding}`" in encoding_hint(path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_characters_without_a_byte_order_mark_are_told(tmp_path, encoding):
    for text in ("Хороший фильм", "好看的电影", "a film"):
        path = tmp_path / "r.csv"
        path.write_bytes("\n".join(["text,label", *[f"{text},a"] * 20]).encode(encoding))
        with pytest.raises(DataError) as error:
            read_source(Data(path=str(path)))
        assert error.value.hint == f"`--task.data.encoding {encoding}`"
        [table] = read_source(Data(path=str(path), encoding=encoding)).values()
        assert table.rows[0][1] == {"text": text, "label": "a"}


def test_a_file_of_wide_characters_that_ends_in_half_a_one_names_its_last_row(tmp_path):
    path = tmp_path / "r.csv"
    path.write_bytes("text,label\ngood,a\nbad,b".encode("utf-16")[:-1])
    [table] = read_source(Data(path=str(path))).values()
    assert [row.number for row in table.malformed] == [3]


def write(path, encoding, separator=",", good="gut"):
    rows = [f"Schöne Größe {n}{separator}{good if n % 2 else 'schlecht'}" for n in range(20)]
    path.write_bytes("\n".join([f"text{separator}label", *rows]).encode(encoding))
    return path


def test_the_error_names_rows_and_the_field_and_the_field_reads_them(tmp_path):
    path = write(tmp_path / "r.csv", "cp1252")
    with pytest.raises(DataError, match=r"20 not UTF-8 \(lines 2, 3, 4, 5, 6, ...\)") as error:
        load_splits(TextClassification(data=Data(path=str(path))), 0)
    assert error.value.hint.startswith(
        "it reads as `cp1252` (`Schöne`): give `--task.data.encoding"
    )
    data = Data(path=str(path), encoding="cp1252")
    splits, _ = load_splits(TextClassification(data=data), 0)
    assert str(splits.train[0].values["text"]).startswith("Schöne Größe")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path, encoding):
    path = write(tmp_path / "r.tsv", encoding, "\t")
    [table] = read_source(Data(path=str(path))).values()
    assert table.columns == ("text", "label")
    assert len(table.rows) == 20


def test_rows_that_are_not_in_the_encoding_that_is_given_are_named(tmp_path):
    path = tmp_path / "r.csv"
    path.write_bytes("text,label\n好,a\n".encode("gb18030") + b"\xff\xff,b\n")
    [table] = read_source(Data(path=str(path), encoding="gb18030")).values()
    assert [(row.number, row.kind) for row in table.malformed] == [(3, "not GB18030")]


def test_utf8_is_not_read_as_something_else(tmp_path):
    path = write(tmp_path / "r.csv", "utf-8")
    with pytest.raises(DataError, match=r"is UTF-8 \(`Schöne`\), but `encoding` is `cp1252`"):
        read_source(Data(path=str(path), encoding="cp1252"))


def test_a_few_characters_that_are_utf8_by_chance_are_read_as_asked(tmp_path):
    path = tmp_path / "r.csv"
    path.write_bytes("text,label\n模,a\n".encode("gb18030"))
    path.read_text(encoding="utf-8")
    [table] = read_source(Data(path=str(path), encoding="gb18030")).values()
    assert table.rows[0][1]["text"] == "模"
    [table] = read_source(Data(path=str(write(path, "utf-8")), encoding="utf-8-sig")).values()
    assert len(table.rows) == 20


def test_two_encodings_in_one_file_are_not_taken_for_one(tmp_path):
    path = write(tmp_path / "r.csv", "utf-8")
    path.write_bytes(path.read_bytes() + "\nKöln,gut\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"1 not UTF-8 \(line 22\)") as error:
        load_splits(TextClassification(data=Data(path=str(path))), 0)
    assert error.value.hint.startswith("other lines are UTF-8: correct these")


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ({"encoding": "cp12"}, "no encoding is called `cp12`"),
        ({"separator": ";;"}, "`separator` is ';;'; give one character, or `tab`"),
        ({"decimal": ";"}, "should be '.' or ','"),
    ],
)
def test_a_wrong_setting_is_told(field, told):
    with pytest.raises(RecipeError, match=told):
        parse(Data, json.dumps({"path": "r.csv", **field}), "data")


def test_rows_of_another_encoding_are_not_skipped_in_silence(tmp_path):
    rows = "".join(f"{'schön' if n % 5 else 'gut'} {n},{'ab'[n % 2]}\n" for n in range(80))
    path = tmp_path / "r.csv"
    path.write_bytes(f"text,label\n{rows}".encode("cp1252"))
    task = TextClassification(data=Data(path=str(path), malformed="skip"))
    (note,) = [note for note in load_splits(task, 0)[1].notes if "UTF-8" in note]
    assert note.endswith("`cp1252` (`schön`): give `--task.data.encoding cp1252`")
