"""Reads the messages of a conversation, and checks their order."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from peftkit.data.rows import is_empty, is_empty_or_false
from peftkit.parts.json_values import RepeatedName, unrepeated
from peftkit.tasks.reading.single_message import (
    CONTENT,
    FLAGS,
    PART,
    READ,
    ROLES,
    TEXT,
    THOUGHTS,
    UNREAD,
    Message,
    read_message,
    role_of,
)

WRITTEN = re.compile(
    rf"""\s*\[\s*\{{\s*(['"])(?:role|from)\1\s*:\s*(['"])(?:{"|".join(ROLES)})\2""",
    re.IGNORECASE,
)
"""Matches the beginning of a text that is meant as a list of messages."""

UNLEARNED = "\x1e"
"""Marks an unlearned turn in a conversation's key."""


def is_learned(message: Message) -> bool:
    """Whether a message is an assistant's turn that the model learns."""
    return message["role"] == "assistant" and bool(message.get("learned", True))


def unwrap_messages(value: Any) -> Any:
    """Puts a single message into a list, and parses messages that are written as JSON text; returns
    other values unchanged.

    Raises:
        RepeatedName: a message in a JSON text has the same key twice.
    """
    if isinstance(value, Mapping):
        return [value]
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        turns = json.loads(value)
        turns = [turns] if isinstance(turns, Mapping) else turns
        if not isinstance(turns, list) or not all(map(_is_message, turns)):
            return value
        if not any(role_of(turn) in ROLES for turn in turns):
            return value
        turns = json.loads(value, object_pairs_hook=unrepeated)
    except RepeatedName:  # a subclass of ValueError
        raise
    except (ValueError, RecursionError):
        return value
    return [turns] if isinstance(turns, Mapping) else turns


def _is_message(value: Any) -> bool:
    """Whether a value is an object with a role and with content, a tool call or a thought."""
    return isinstance(value, Mapping) and bool(
        role_of(value) and value.keys() & {*CONTENT, *UNREAD, *THOUGHTS}
    )


def read_messages(value: Any, column: str = "messages") -> list[Message] | str:
    """Reads a list of messages, trims white space around system messages and answers, and checks
    the order of turns. If something is malformed, returns a string that says what.
    """
    read = read_turns(value, column)
    if isinstance(read, str):
        return read
    return wrong_order(read) or read


def read_turns(value: Any, column: str) -> list[Message] | str:
    """Reads a list of messages like `read_messages`, but accepts turns in any order."""
    if isinstance(value, str):
        try:
            value = json.loads(value, object_pairs_hook=unrepeated)  # a cell of a CSV file
        except RepeatedName as error:
            return f"names `{error.name}` twice"
        except (ValueError, RecursionError):
            return f"{column} is text, not a list of messages"
    if not isinstance(value, Sequence) or isinstance(value, str):
        return f"{column} is {type(value).__name__}, not a list of messages"
    messages: list[Message] = []
    for item in value:
        read = read_message(item)
        if isinstance(read, str):
            return read
        messages.append(read)
    return messages


def read_system(value: Any, column: str) -> list[Message] | str:
    """Reads a system message from a column's value: a text, its parts, or a message.

    Raises:
        RepeatedName: a message in a JSON text has the same key twice.

    Returns:
        A list with the message; an empty list if there is none; or, if the value is malformed, a
        string that says how.
    """
    if is_empty_or_false(value):
        return []
    turns = unwrap_messages(value)
    if isinstance(turns, str):
        if looks_like_messages(turns):
            return f"{column} looks like a list of messages, and is not JSON"
        turns = [{"role": "system", "content": turns}]
    elif not isinstance(turns, list):
        return f"{column} is {type(value).__name__}, not text"
    elif all(isinstance(turn, Mapping) and "text" in turn and not role_of(turn) for turn in turns):
        turns = [{"role": "system", "content": turns}]
    read = read_turns(turns, column)
    if isinstance(read, str):
        return read
    if [message["role"] for message in read] != ["system"]:
        return f"{column} is not one system message"
    return read if read[0]["content"] else []


def looks_like_messages(text: str) -> bool:
    """Whether a text begins like a list of messages."""
    return bool(WRITTEN.match(text))


def unread_keys(value: Any) -> Counter[str]:
    """Message key that peftkit does not read -> number of messages that have it.

    Args:
        value: a list of messages; for any other value the result is empty.
    """
    counts: Counter[str] = Counter()
    for item in value if isinstance(value, list | tuple) else ():
        if isinstance(item, Mapping):
            answers = ROLES.get(role_of(item)) == "assistant"
            read = READ if answers else (*TEXT, *FLAGS)
            unread = {key for key in item if key not in read and not is_empty(item[key])}
            for key in CONTENT:
                parts = item.get(key)
                for part in parts if isinstance(parts, list) else ():
                    keys = part if isinstance(part, Mapping) else {}
                    unread |= {k for k in keys if k not in PART and not is_empty(keys[k])}
            counts.update(unread)
    return counts


def wrong_order(messages: Sequence[Message]) -> str:
    """Says what is wrong with the order of the turns; empty if the order is right."""
    roles = [message["role"] for message in messages]
    if not roles:
        return "no messages"
    if "system" in roles[1:]:
        return "system message after the beginning"
    spoken = [role for role in roles if role != "system"]
    if not spoken:
        return "only a system message"
    if spoken[0] == "assistant":
        return "begins with an assistant turn"
    if any(a == b == "assistant" for a, b in pairwise(spoken)):
        return "two assistant turns in a row"
    return ""


def unanswered(messages: list[Message]) -> list[Message]:
    """The messages without the assistant's turn at the end, if there is one."""
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def message_key(messages: Sequence[Message]) -> str:
    """A key that is equal for conversations with the same texts and the same learned turns."""
    return "\x1f".join(
        f"{m['content']}{m.get('thought', '')}{'' if m.get('learned', True) else UNLEARNED}"
        for m in messages
    )
