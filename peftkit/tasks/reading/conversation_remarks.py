"""Notes on conversations before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from peftkit.data.rows import Row


def unread_remarks(rows: Collection[Row]) -> Iterator[str]:
    """Yields a note that counts message keys and columns which peftkit does not read, and a note on
    columns whose system message differs from the conversation's own.
    """
    unread = Counter(key for row in rows for key in row.values.get("unread", ()))
    if unread:
        counts = ", ".join(f"`{key}` ({count:,})" for key, count in unread.most_common())
        yield f"peftkit does not read these keys or columns of conversations: {counts}"
    overruled = Counter(column for row in rows for column in row.values.get("overruled", ()))
    if overruled:
        counts = ", ".join(f"`{column}` ({count:,})" for column, count in overruled.most_common())
        yield (
            "conversations begin with their own system message, which is used instead of the "
            f"one in a column: {counts}"
        )


def system_remarks(systems: Counter[str]) -> Iterator[str]:
    """Yields a note if conversations have different system prompts, as the adapter then records
    none.

    Args:
        systems: system prompt -> number of conversations; an empty prompt stands for none.
    """
    if len(systems) < 2:
        return
    total, without = sum(systems.values()), systems.get("", 0)
    several = len(systems) - bool(without)
    prompts = f"{several:,} different system prompts" if several > 1 else "one system prompt"
    if without:
        prompts += f", and {without:,} of {total:,} conversations without one"
    yield f"training has {prompts}, so `peftkit chat` uses none; give one with `--system`"
