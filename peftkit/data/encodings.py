"""Guesses the encoding of a text's bytes, and returns the likeliest guesses first.

Bytes that are not UTF-8 are decoded in each common encoding. The text is then compared with the
languages written in that encoding. Letters that the language does not have, capitals inside words
and many rare letters count against the encoding. Other libraries (chardet, charset_normalizer)
score all characters alike, and so guess GBK for German and Cyrillic for Hebrew.
"""

from __future__ import annotations

import re
from itertools import pairwise
from operator import itemgetter

WESTERN = (
    "üäöß", "éèàêçùôîûâïëœæüÿ", "óíáéñúü", "ãáçéóíêúâõôàü", "èàùòìéíóî", "äöå", "øåæé", "ëéïèöü",
    "ðíáóþéúöæý", "óàéíèçòúïü", "ëç",
)  # fmt: skip
CENTRAL = (
    "ęłżąóśćńź", "íáéěřýščžůúťňďó", "áíéýčžšťúľôňďäóĺŕ", "áéőóöíüúű", "ăîşţâșț", "čšžćđ",
)  # fmt: skip
BALTIC = ("ėšųįžčąūę", "āīēšņūļžčģķ", "äõüöšž")
LATIN = {
    "cp1252": WESTERN,
    "cp1250": CENTRAL,
    "cp1254": ("ıüşğçöâîi\u0307",),
    "cp1257": BALTIC,
    "iso8859_15": WESTERN,
    "iso8859_2": CENTRAL,
    "iso8859_13": BALTIC,
    "cp1258": ("àâăđèéêìíòóôơùúưýảãạỳ\u0300\u0301\u0303\u0309\u0323",),
    "mac_roman": WESTERN,
    "cp850": WESTERN,
    "cp852": CENTRAL,
}
"""Encoding -> for each language written in it, its letters other than a to z, the most frequent
first."""
CYRILLIC = (
    "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфёъ", "оанивтреіслкдпумьягзбчїхйєжшцющфґ'",
    "аиоенрстувкјдмплзбгшчцњђћжљхфџ", "аиоентсрвлкдпмзгубяъчцшжхйщюфь",
)  # fmt: skip
GREEK = ("αοιετσνηυρπκμλάίόςέωήδγχύθφώβξζψϊϋΐΰ",)
HEBREW = ("יוהלאמרבשתנכדחעקפםטסגצןזךץף",)
ARABIC = ("اليمنرتوبدةعسفهكحقأجشصطخىإذثضغزءئآظؤپچژگًٌٍَُِّْـ\u200c\u200d",)
THAI = ("านอ่รกเง้ยมลวดัทิสีตะ็บปคหแจพุชขไใืูธซศโผ์ึำณถฟฉภญฐฎฏษฝฮฒฆฑฬฌๆฯ๊๋ฤ๐๑๒๓๔๕๖๗๘๙",)
ALPHABETS = {
    "cp1251": CYRILLIC, "koi8_r": CYRILLIC, "koi8_u": CYRILLIC, "cp866": CYRILLIC,
    "iso8859_5": CYRILLIC, "cp1253": GREEK, "iso8859_7": GREEK, "cp1255": HEBREW,
    "iso8859_8": HEBREW, "cp1256": ARABIC, "iso8859_6": ARABIC, "cp874": THAI,
}  # fmt: skip
"""Encoding of a non-Latin alphabet -> letters of each language, the most frequent first."""
EAST = {
    "euc_kr": ("hangul", {*range(0xA1, 0xAD), *range(0xB0, 0xC9)}),
    "shift_jis": ("kana", {*range(0x81, 0x85), *range(0x88, 0x99)}),
    "euc_jp": ("kana", {*range(0xA1, 0xA9), *range(0xB0, 0xD0)}),
    "big5": ("han", {*range(0xA1, 0xC7)}),
    "gb18030": ("han", {*range(0xA1, 0xA4), *range(0xB0, 0xD8)}),
}
"""East Asian encoding -> (its script, the first bytes of its usual characters). Between equally
likely encodings, the earlier one is preferred."""
MARKS = "“”„‘’«»–—…€¿¡°§©®™£½¼¾²³±\xd7·•"
"""Signs before and after words in any language; some of them also occur inside words."""
INSIDE = "’‘–—…\xd7\xa0\xad"
INVISIBLE = "\xa0\xad\u3000\u200b\u200c\u200d\u200e\u200f"
WORD = re.compile(r"[^\s!-/:-@\[-`{-~،؛؟]+")
ALONE = re.compile(
    r"(?<=[A-Za-z])[^\x00-\x7f](?![^\x00-\x7f])|(?<![^\x00-\x7f])[^\x00-\x7f](?=[A-Za-z])"
)
"""Pattern of a single non-ASCII character next to an ASCII letter."""
NEVER_FIRST = "ьъы"
"""Cyrillic letters that begin no word, unless text of another script is decoded as Cyrillic."""
MOST_GUESSES = 3
SAME_TEXT = 0.05
"""Margin of strangeness by which a later encoding must beat an earlier one that gives the same
text."""
EAST_ALONE = 0.15
"""Penalty for East Asian encodings: with so many characters, other texts fit by chance."""
UNUSUAL = 0.02
"""Penalty for encodings that are not code pages of Windows."""
NONSENSE = 0.4
"""An encoding is dropped if its text has at least this strangeness."""


def likely_encodings(raw: bytes) -> list[str]:
    """Returns at most `MOST_GUESSES` encodings that decode the bytes, the likeliest first."""
    best: dict[str, tuple[float, str]] = {}
    for name in (*EAST, *LATIN, *ALPHABETS):
        text = _text(raw, name)
        if text:  # encodings that give the same text are one guess
            strange = _strangeness(text, name) + UNUSUAL * (
                not re.fullmatch(r"cp125\d|cp874", name)
            )
            before = best.get(text, (NONSENSE, ""))
            if strange < before[0] - (
                SAME_TEXT if before[1] else 0
            ):  # otherwise keep the earlier, more usual encoding
                best[text] = (strange, name)
    guesses = sorted((one for one in best.values() if one[1]), key=itemgetter(0))
    return [name for _, name in guesses][:MOST_GUESSES]


def _text(raw: bytes, encoding: str) -> str:
    """Decodes bytes; returns an empty text if that fails or gives control characters."""
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        return ""
    return text if all(c.isprintable() or c in "\t\r\n" or c in INVISIBLE for c in text) else ""


def _strangeness(text: str, encoding: str) -> float:
    """Returns how badly a text fits the languages of its encoding; 0 for a perfect fit."""
    if encoding in EAST:
        return _strange_east(text, encoding)
    inside = str.maketrans("", "", INSIDE)
    words = [word.strip(MARKS + INVISIBLE).translate(inside) for word in WORD.findall(text)]
    words = [word for word in words if not word.isascii()]
    if not words:  # only signs, as in `5 €`
        return 0.0
    languages = LATIN.get(encoding) or ALPHABETS[encoding]
    shares = [_strange_letters(words, language, encoding in LATIN) for language in languages]
    odd = sum(_has_inner_capital(word) or word[0].lower() in NEVER_FIRST for word in words)
    return min(shares) + odd / len(words)


def _strange_letters(words: list[str], language: str, is_latin: bool) -> float:
    """Returns the share of non-ASCII letters that a language does not have, plus penalties.

    Penalties are for rare letters, for too many accented letters in a Latin alphabet, and for
    Latin letters in another alphabet.
    """
    letters = [c for word in words for c in word.casefold() if not c.isascii()]
    foreign = sum(letter not in language for letter in letters) / max(1, len(letters))
    ascii_letters = sum(c.isascii() and c.isalpha() for word in words for c in word)
    ranks = [language.find(letter) / len(language) for letter in letters if letter in language]
    rarity = sum(ranks) / max(1, len(ranks))
    if is_latin:
        dense = len(letters) > 2 * ascii_letters + len(words)
        return foreign + rarity / 30 + (0.5 if dense else 0)
    mixed = ascii_letters / max(1, ascii_letters + len(letters))
    return foreign + rarity / 2 + mixed


def _has_inner_capital(word: str) -> bool:
    """Whether a capital follows a small letter, and one of the two is not ASCII."""
    return any(
        before.islower() and after.isupper() and not (before + after).isascii()
        for before, after in pairwise(word)
    )


def _strange_east(text: str, encoding: str) -> float:
    """Returns the share of non-ASCII characters that are rare in the encoding, plus `EAST_ALONE`.

    Returns 1 if too many are rare, if the script does not fit, or if most stand alone in Latin
    words, like wrongly decoded accented letters.
    """
    script, usual = EAST[encoding]
    wide = [c for c in text if not c.isascii()]
    kana = sum("\u3040" <= c <= "\u30ff" for c in wide)
    hangul = sum("\uac00" <= c <= "\ud7a3" for c in wide)
    if (script == "kana" and 5 * kana < len(wide)) or (
        script == "hangul" and 2 * hangul < len(wide)
    ):
        return 1.0
    rare = sum(c.encode(encoding)[0] not in usual for c in wide) / len(wide)
    alone = len(ALONE.findall(text))
    return 1.0 if rare > 0.05 or 2 * alone > len(wide) else EAST_ALONE + rare
