"""The key by which texts are compared."""

from __future__ import annotations

import unicodedata


def text_key(text: str) -> str:
    """A text in NFC, casefolded, with single white space."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
