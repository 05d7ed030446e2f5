"""Reads the catalogues of a program's messages and their translations, in gettext's binary form."""

from __future__ import annotations

import gettext
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftkit.data.rows import Table

CONTEXT = "\x04"
"""Character between a message's context, which no user sees, and the message."""
FEWEST_WORDS = 2
"""Messages of fewer words are names of buttons and columns, whose meaning depends on the place."""


def read_messages(files: Sequence[Path], name: str) -> Table:
    """Reads messages as `source` and their translations as `target`, without those that are
    translated by themselves.

    Args:
        name: name of the table in messages.
    """
    found: dict[str, str] = {}
    for file in files:
        with file.open("rb") as opened:
            catalogue: dict[Any, str] = gettext.GNUTranslations(opened)._catalog  # type: ignore[attr-defined]
        for key, translation in catalogue.items():
            message, plural = key if isinstance(key, tuple) else (key, 0)
            message = message.rpartition(CONTEXT)[2]
            is_text = len(message.split()) >= FEWEST_WORDS and translation.strip()
            if plural == 0 and is_text and message != translation:
                found.setdefault(message, translation)
    rows = [{"source": message, "target": found[message]} for message in sorted(found)]
    return Table(name, ("source", "target"), tuple(enumerate(rows, start=1)))
