"""The encodings that the bytes of a text may be in, the likeliest first."""

from __future__ import annotations

import re

LATIN = {
    "cp1252": (
        "äöüß", "àâæçéèêëîïôœùûüÿ", "áéíñóúü", "àáâãçéêíóôõúü", "àèéìíòóù", "åäöøæé", "ëïéèöü",
        "áéíóúýþæöð", "àçèéíïòóúü",
    ),
    "cp1250": (
        "ąćęłńóśźż", "áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "áéíóöőúüű", "ăâîșțşţ", "čćđšž",
    ),
    "cp1254": ("çğıiöşüâî",),
}  # fmt: skip
"""Encodings that differ in a few letters only -> the letters beyond a to z of each language that is
written in them."""
MARKS = "“”„‘’«»–—…€¿¡°§"
"""Signs around words, in any language."""
ENCODINGS = (
    *LATIN, "cp1251", "koi8_r", "cp1253", "cp1255", "cp1256", "cp874", "gb18030", "big5",
    "shift_jis", "euc_jp", "euc_kr",
)  # fmt: skip
EAST = {
    "euc_kr": ("hangul", {*range(0xA1, 0xAD), *range(0xB0, 0xC9)}),
    "shift_jis": ("kana", {*range(0x81, 0x85), *range(0x88, 0x99)}),
    "euc_jp": ("kana", {*range(0xA1, 0xA9), *range(0xB0, 0xD0)}),
    "big5": ("han", {*range(0xA1, 0xC7)}),
    "gb18030": ("han", {*range(0xA1, 0xA4), *range(0xB0, 0xD8)}),
}
"""Encodings of East Asia -> the script, and the first bytes of its usual characters; the order is
that in which they are believed."""
NONSENSE = re.compile(
    r"[a-z](?![\u0080-\u024f])[^\x00-\x7f’‘·–—…][a-z]|[\u0400-\u04ff][\u201a\u201e†‡‰µ¬¦¤][\u0400-\u04ff]"
)
"""Letters that no language has side by side."""
MOST_GUESSES = 3


def likely_encodings(raw: bytes) -> list[str]:
    """Encodings in which bytes read as text, the likeliest first."""
    from charset_normalizer import from_bytes

    texts = {name: text for name in ENCODINGS if (text := _text(raw, name))}
    east = [name for name in EAST if name in texts and _reads_as(texts[name], name)]
    found = [match.encoding for match in from_bytes(raw, cp_isolation=list(ENCODINGS))]
    order = [*east, *(name for name in found if name in texts)]
    if order and order[0] in LATIN:  # they are told apart by the letters of their languages
        latin = [name for name in LATIN if name in texts]
        latin.sort(key=lambda name: _foreign_letters(texts[name], LATIN[name]))
        order = [*latin, *(name for name in order if name not in LATIN)]
    names = {text: name for name, text in reversed(texts.items())}
    distinct = dict.fromkeys(texts[name] for name in order)  # the same text is one guess
    return [names[text] for text in distinct][:MOST_GUESSES]


def _reads_as(text: str, encoding: str) -> bool:
    """Whether characters beyond ASCII are the usual ones of an East Asian encoding's language."""
    wide = [c for c in text if not c.isascii()]
    scripts, usual = EAST[encoding]
    kana = sum("\u3040" <= c <= "\u30ff" for c in wide)
    if scripts == "kana" and 5 * kana < len(wide):
        return False
    common = sum(_lead(c, encoding) in usual for c in wide)
    return common > 0.95 * len(wide)


def _lead(character: str, encoding: str) -> int:
    """The first byte of a character."""
    return character.encode(encoding)[0]


def _foreign_letters(text: str, languages: tuple[str, ...]) -> int:
    """Characters beyond ASCII that are no letters of the language that fits best; signs inside of
    words count too.
    """
    words = [w for w in re.findall(r"[^\s!-/:-@[-`{-~]+", text.casefold()) if not w.isascii()]
    letters = [c for word in words for c in word.strip(MARKS) if not c.isascii()]
    return min(sum(letter not in known for letter in letters) for known in languages)


def _text(raw: bytes, encoding: str) -> str:
    """Bytes as text; empty where they are not in the encoding, or give nonsense: control
    characters, or words with signs or letters of another alphabet between Latin or Cyrillic ones.
    """
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        return ""
    if not all(c.isprintable() or c in "\t\r\n\xa0\xad\u3000" for c in text):
        return ""
    words = [word for word in re.findall(r"[^\s!-/:-@[-`{-~]+", text) if not word.isascii()]
    mixed = sum(bool(NONSENSE.search(word)) for word in words)
    return text if 2 * mixed <= len(words) else ""
