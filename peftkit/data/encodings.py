"""The encodings that the bytes of a text may be in, the likeliest first.

Bytes that are no UTF-8 are read in each encoding that is in use, and each reading is measured by
the languages that are written in it: letters that the language does not have, capitals inside of
words, rare letters where frequent ones belong. Libraries that guess encodings (chardet,
charset_normalizer) go by the noise of all characters and take GBK for German, Cyrillic for Hebrew.
"""

from __future__ import annotations

import re
from itertools import pairwise

WESTERN = (
    "äöüß", "àâæçéèêëîïôœùûüÿ", "áéíñóúü", "àáâãçéêíóôõúü", "àèéìíòóù", "åäöøæé", "ëïéèöü",
    "áéíóúýþæöð", "àçèéíïòóúü", "ëç",
)  # fmt: skip
CENTRAL = (
    "ąćęłńóśźż", "áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "áéíóöőúüű", "ăâîșțşţ", "čćđšž",
)  # fmt: skip
BALTIC = ("ąčęėįšųūž", "āčēģīķļņšūž", "äõöüšž")
LATIN = {
    "cp1252": WESTERN,
    "cp1250": CENTRAL,
    "cp1254": ("çğıiöşüâî\u0307",),
    "cp1257": BALTIC,
    "iso8859_15": WESTERN,
    "iso8859_2": CENTRAL,
    "iso8859_13": BALTIC,
    "cp1258": ("àâăđèéêìíòóôơùúưýảãạỳ\u0300\u0301\u0303\u0309\u0323",),
    "mac_roman": WESTERN,
    "cp850": WESTERN,
    "cp852": CENTRAL,
}
"""Encodings -> the letters beyond a to z of each language that is written in them."""
CYRILLIC = (
    "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфёъ", "оанивтреіслкдпумьягзбчїхйєжшцющфґ'",
    "аиоенрстувкјдмплзбгшчцњђћжљхфџ", "аиоентсрвлкдпмзгубяъчцшжхйщюфь",
)  # fmt: skip
GREEK = ("αοιετσνηυρπκμλάίόςέωήδγχύθφώβξζψϊϋΐΰ",)
HEBREW = ("יוהלאמרבשתנכדחעקפםטסגצןזךץף",)
ARABIC = ("اليمنرتوبدةعسفهكحقأجشصطخىإذثضغزءئآظؤپچژگًٌٍَُِّْـ",)
THAI = ("านอ่รกเง้ยมลวดัทิสีตะ็บปคหแจพุชขไใืูธซศโผ์ึำณถฟฉภญฐฎฏษฝฮฒฆฑฬฌๆฯ๊๋ฤ๐๑๒๓๔๕๖๗๘๙",)
ALPHABETS = {
    "cp1251": CYRILLIC, "koi8_r": CYRILLIC, "koi8_u": CYRILLIC, "cp866": CYRILLIC,
    "iso8859_5": CYRILLIC, "cp1253": GREEK, "iso8859_7": GREEK, "cp1255": HEBREW,
    "iso8859_8": HEBREW, "cp1256": ARABIC, "iso8859_6": ARABIC, "cp874": THAI,
}  # fmt: skip
"""Encodings of scripts of their own -> the letters of each language, the most frequent first."""
EAST = {
    "euc_kr": ("hangul", {*range(0xA1, 0xAD), *range(0xB0, 0xC9)}),
    "shift_jis": ("kana", {*range(0x81, 0x85), *range(0x88, 0x99)}),
    "euc_jp": ("kana", {*range(0xA1, 0xA9), *range(0xB0, 0xD0)}),
    "big5": ("han", {*range(0xA1, 0xC7)}),
    "gb18030": ("han", {*range(0xA1, 0xA4), *range(0xB0, 0xD8)}),
}
"""Encodings of East Asia -> the script, and the first bytes of its usual characters; the order is
that in which they are believed."""
MARKS = "“”„‘’«»–—…€¿¡°§"
"""Signs around words, in any language."""
WORD = re.compile(r"[^\s!-/:-@\[-`{-~،؛؟]+")
MOST_GUESSES = 3
EAST_ALONE = 0.15
"""What an East Asian reading is worse than a perfect one: an alphabet that fits is no chance."""
NONSENSE = 0.4
"""A reading that is worse is none."""


def likely_encodings(raw: bytes) -> list[str]:
    """Encodings in which bytes read as text, the likeliest first."""
    found: dict[str, tuple[float, str]] = {}
    for name in (*EAST, *LATIN, *ALPHABETS):
        text = _text(raw, name)
        if text and text not in found:  # the same text is one guess
            strange = _strangeness(text, name)
            if strange < NONSENSE:
                found[text] = (strange, name)
    return [name for _, name in sorted(found.values(), key=lambda one: one[0])][:MOST_GUESSES]


def _text(raw: bytes, encoding: str) -> str:
    """Bytes as text; empty where they are not in the encoding, or hold control characters."""
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        return ""
    return text if all(c.isprintable() or c in "\t\r\n\xa0\xad\u3000" for c in text) else ""


def _strangeness(text: str, encoding: str) -> float:
    """How little a text looks like the languages of its encoding, from 0."""
    words = [word.strip(MARKS) for word in WORD.findall(text) if not word.isascii()]
    words = [word for word in words if not word.isascii()]
    if encoding in EAST:
        return _strange_east(text, encoding)
    if not words:  # signs alone, as in `5 €`
        return 0.0
    languages = LATIN.get(encoding) or ALPHABETS[encoding]
    shares = [_strange_letters(words, language, encoding in LATIN) for language in languages]
    return min(shares) + sum(map(_has_inner_capital, words)) / len(words)


def _strange_letters(words: list[str], language: str, is_latin: bool) -> float:
    """The share of characters beyond ASCII that a language does not have; in a script of its own
    also how rare they are, and how many words mix it with Latin letters.
    """
    letters = [c for word in words for c in word.casefold() if not c.isascii()]
    foreign = sum(letter not in language for letter in letters) / max(1, len(letters))
    ascii_letters = sum(c.isascii() and c.isalpha() for word in words for c in word)
    if is_latin:
        return foreign + (0.5 if len(letters) > 2 * ascii_letters + len(words) else 0)
    rarity = [language.find(letter) / len(language) for letter in letters if letter in language]
    mixed = ascii_letters / (ascii_letters + len(letters))
    return foreign + mixed + sum(rarity) / max(1, len(rarity)) / 2


def _has_inner_capital(word: str) -> bool:
    """Whether a capital beyond ASCII follows a small letter."""
    return any(
        before.islower() and after.isupper() and not (before + after).isascii()
        for before, after in pairwise(word)
    )


def _strange_east(text: str, encoding: str) -> float:
    """The share of characters beyond ASCII that are not the usual ones of the encoding's language,
    or stand alone, as they do where they were letters of a Latin word.
    """
    scripts, usual = EAST[encoding]
    wide = [c for c in text if not c.isascii()]
    kana = sum("\u3040" <= c <= "\u30ff" for c in wide)
    if scripts == "kana" and 5 * kana < len(wide):
        return 1.0
    rare = sum(c.encode(encoding)[0] not in usual for c in wide)
    alone = re.findall(
        r"(?<=[a-z])[^\x00-\x7f](?![^\x00-\x7f])|(?<![^\x00-\x7f])[^\x00-\x7f](?=[a-z])", text
    )
    strange = rare / len(wide)
    return 1.0 if strange > 0.05 or 2 * len(alone) > len(wide) else EAST_ALONE + strange
