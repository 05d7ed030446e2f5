"""The key by which texts are compared."""

from __future__ import annotations

import unicodedata


def text_key(text: str) -> str:
    """The text in Unicode form NFC, casefolded, with each run of white space as one space."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
