"""Notes on conversations before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from peftkit.data.rows import Row


def unread_remarks(rows: Collection[Row]) -> Iterator[str]:
    """The keys of messages that nothing reads, with the number of messages that have them; and the
    columns with a system message where the conversation has another one.
    """
    unread = Counter(key for row in rows for key in row.values.get("unread", ()))
    if unread:
        told = ", ".join(f"`{key}` ({count:,})" for key, count in unread.most_common())
        yield f"nothing reads these keys of messages, or columns beside them: {told}"
    overruled = Counter(column for row in rows for column in row.values.get("overruled", ()))
    if overruled:
        told = ", ".join(f"`{column}` ({count:,})" for column, count in overruled.most_common())
        yield (
            "conversations begin with a system message of their own, which is learned in place of "
            f"the one in a column: {told}"
        )


def system_remarks(systems: Counter[str]) -> Iterator[str]:
    """A note if conversations have different system prompts; the adapter then records none.

    Args:
        systems: system prompt -> conversations that have it; empty for those that have none.
    """
    if len(systems) < 2:
        return
    total, without = sum(systems.values()), systems.get("", 0)
    several = len(systems) - bool(without)
    told = f"{several:,} different system prompts" if several > 1 else "one system prompt"
    if without:
        told += f", and {without:,} of {total:,} conversations without one"
    yield f"training has {told}, so `peftkit chat` uses none; give one with `--system`"
