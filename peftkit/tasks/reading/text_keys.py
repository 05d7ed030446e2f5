"""Texts that say the same thing have the same key."""

from __future__ import annotations

import unicodedata


def text_key(text: str) -> str:
    """A text in composed form, without case, its white space single."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
