"""Reads a table's row as a conversation, or as plain text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from peftkit.data.rows import folded_name, is_empty, is_empty_or_false, is_missing
from peftkit.errors import quoted
from peftkit.parts.json_values import RepeatedName
from peftkit.tasks.reading.conversations import Layout
from peftkit.tasks.reading.messages import (
    looks_like_messages,
    read_messages,
    read_system,
    read_turns,
    unanswered,
    unread_keys,
    unwrap_messages,
    wrong_order,
)
from peftkit.tasks.reading.single_message import Message, flag_of, shown


def read_conversation(
    values: Mapping[str, object], layout: Layout, answered: bool = True
) -> dict[str, object] | str:
    """Reads a row; if it is malformed, returns a string that says how.

    Args:
        layout: what `Conversations.layout` returns for the table.
        answered: whether to read the answer; if not, an assistant's turn at the end is dropped.

    Returns:
        `messages` or `text`; `unread`, the message keys and columns that peftkit does not read;
        and for messages `overruled`, the columns whose system message differs from the
        conversation's own.
    """
    raw = {name: value for name in layout.flags if not is_empty(value := values.get(name))}
    flags = {name: _row_flag(name, value) for name, value in raw.items()}
    if answered and (off := [name for name, flag in flags.items() if flag is False]):
        return f"`{off[0]}` is {shown(raw[off[0]])}"
    unread = Counter(name for name, flag in flags.items() if flag is None)
    if "text" in layout.columns:
        text = values.get(layout.columns["text"])
        usable = isinstance(text, str) and text.strip()
        read = {"text": text, "unread": tuple(sorted(unread))}
        return read if usable else f"empty {layout.columns['text']}"
    if refused := [name for name in layout.refused if not is_empty_or_false(values.get(name))]:
        return f"the row has `{refused[0]}`, which is not read"
    try:
        return _read_talk(values, layout, answered, unread)
    except RepeatedName as error:
        return f"names `{error.name}` twice"


def _row_flag(name: str, value: object) -> bool | None:
    """The value of a flag column; None if it is no flag, such as a `loss` with a fraction."""
    return None if folded_name(name) == "loss" and isinstance(value, float) else flag_of(value)


def _read_talk(
    values: Mapping[str, object], layout: Layout, answered: bool, unread: Counter[str]
) -> dict[str, object] | str:
    """Reads a row with messages; returns what `read_conversation` returns.

    Args:
        unread: counts of columns that peftkit does not read; the function adds message keys.
    """
    read = (_read_messages if "messages" in layout.columns else _read_pair)(
        values, layout, answered
    )
    if isinstance(read, str):
        return read
    systems: dict[str, str] = {}
    for column in layout.systems:
        system = read_system(values.get(column), column)
        if isinstance(system, str):
            return system
        if system:
            systems[column] = system[0]["content"]
    for column in (*_turn_columns(layout, answered), *systems):
        unread += unread_keys(unwrap_messages(values.get(column)))
    if (about := _unread_input(values, layout)) and "input" in layout.named:
        return f"the row has `{about}` beside a prompt of messages, which has no place for it"
    unread.update(filter(None, [about]))
    overruled: list[str] = []
    if read[0]["role"] == "system":  # its own system message takes precedence
        overruled = [name for name, text in systems.items() if text != read[0]["content"]]
    elif len(set(systems.values())) > 1:
        return f"different system messages in {quoted(systems)}"
    elif systems:
        read = [{"role": "system", "content": next(iter(systems.values()))}, *read]
    return {
        "messages": read,
        "unread": tuple(sorted(unread.elements())),
        "overruled": tuple(overruled),
    }


def _turn_columns(layout: Layout, answered: bool) -> list[str]:
    """The columns that hold turns of the conversation."""
    roles = ("messages", "prompt", "completion") if answered else ("messages", "prompt")
    return [layout.columns[role] for role in roles if role in layout.columns]


def _unread_input(values: Mapping[str, object], layout: Layout) -> str:
    """Name of the `input` column if the row has an input although its prompt is a list of messages,
    which cannot take it; else empty.
    """
    column = layout.columns.get("input", "")
    listed = isinstance(unwrap_messages(values.get(layout.columns.get("prompt", ""))), list)
    return column if listed and not is_empty(values.get(column)) else ""


def _read_messages(
    values: Mapping[str, object], layout: Layout, answered: bool
) -> list[Message] | str:
    """Reads a row with a list of messages."""
    column = layout.columns["messages"]
    read = read_messages(values.get(column), column)
    if isinstance(read, str):
        return read
    for name in layout.instructions:
        text = values.get(name)
        if isinstance(text, str) and not any(text.strip() in turn["content"] for turn in read):
            return (
                f"the row has `{name}` beside its messages, which is not read (name it: "
                f"`--task.data.system {name}`, if it is the system message)"
            )
    return read if answered else unanswered(read)


def _read_pair(values: Mapping[str, object], layout: Layout, answered: bool) -> list[Message] | str:
    """Reads a row with a prompt and its completion: texts, or lists of messages as in TRL."""
    columns = layout.columns
    prompt = _side(values, columns, "prompt")
    if isinstance(prompt, str):
        return prompt
    if isinstance(unwrap_messages(values.get(columns["prompt"])), str):
        about = values.get(columns["input"]) if "input" in columns else ""
        if not is_missing(about) and not isinstance(about, str):
            return f"{columns['input']} is {type(about).__name__}, not text"
        about = about.strip() if isinstance(about, str) else ""
        text = "\n\n".join(filter(None, (prompt[0]["content"], about)))
        prompt = [{"role": "user", "content": text}]
    for message in prompt:
        if message["role"] == "assistant":
            message["learned"] = False  # only the completion is learned
    answer = _side(values, columns, "completion") if answered else []
    if isinstance(answer, str):
        return answer
    messages = [*prompt, *answer]
    return wrong_order(messages) or messages


def _side(
    values: Mapping[str, object], columns: Mapping[str, str], role: str
) -> list[Message] | str:
    """The messages of a prompt or a completion, or a string that says what is malformed."""
    column = columns[role]
    value = unwrap_messages(values.get(column))
    if is_missing(value):
        return f"{column} is missing"
    if isinstance(value, list):
        return read_turns(value, column)
    if not isinstance(value, str) or not value.strip():
        kind = type(value).__name__
        return f"empty {column}" if kind == "str" else f"{column} is {kind}, not text"
    if looks_like_messages(value):
        return f"{column} looks like a list of messages, and is not JSON"
    if role == "prompt":
        return [{"role": "user", "content": value}]
    return [{"role": "assistant", "content": value.strip()}]
