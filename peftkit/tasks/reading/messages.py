"""Messages of a conversation as files hold them: roles, contents, thoughts, which are learned."""

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
"""The beginning of a list of messages that was written as text."""

UNLEARNED = "\x1e"
"""Marks a turn that is not learned."""


def is_learned(message: Message) -> bool:
    """Whether a turn is an answer that is to be learned."""
    return message["role"] == "assistant" and bool(message.get("learned", True))


def opened(value: Any) -> Any:
    """A message as a list of one, and a text that is JSON of messages as their list; other values
    as they are.

    Raises:
        RepeatedName: a message in a text names a key twice.
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
    except RepeatedName:  # a ValueError too
        raise
    except (ValueError, RecursionError):
        return value
    return [turns] if isinstance(turns, Mapping) else turns


def _is_message(value: Any) -> bool:
    """Whether an object has a role, and what a message says."""
    return isinstance(value, Mapping) and bool(
        role_of(value) and value.keys() & {*CONTENT, *UNREAD, *THOUGHTS}
    )


def read_messages(value: Any, column: str = "messages") -> list[Message] | str:
    """A list of messages in the names of this module, system messages and answers without white
    space around them; or, as a string, what is malformed.
    """
    read = read_turns(value, column)
    if isinstance(read, str):
        return read
    return wrong_order(read) or read


def read_turns(value: Any, column: str) -> list[Message] | str:
    """As `read_messages`, of turns in any order."""
    if isinstance(value, str):
        try:
            value = json.loads(value, object_pairs_hook=unrepeated)  # the cell of a CSV
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
    """The system message in a column of its own, as a list of one: a text, its parts, or a message;
    an empty list if there is none; what is malformed, as a string.

    Raises:
        RepeatedName: a message in a text names a key twice.
    """
    if is_empty_or_false(value):
        return []
    turns = opened(value)
    if isinstance(turns, str):
        if written(turns):
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
        return f"{column} holds something else than one system message"
    return read if read[0]["content"] else []


def written(text: str) -> bool:
    """Whether a text begins as a list of messages does."""
    return bool(WRITTEN.match(text))


def unread_keys(value: Any) -> Counter[str]:
    """Keys of messages that nothing reads -> the number of messages that have one.

    Args:
        value: a list of messages; there are none in anything else.
    """
    found: Counter[str] = Counter()
    for item in value if isinstance(value, list | tuple) else ():
        if isinstance(item, Mapping):
            answers = ROLES.get(role_of(item)) == "assistant"
            read = READ if answers else (*TEXT, *FLAGS)
            unread = {key for key in item if key not in read and not is_empty(item[key])}
            for key in CONTENT:
                parts = item.get(key)
                for part in parts if isinstance(parts, list) else ():
                    given = part if isinstance(part, Mapping) else {}
                    unread |= {k for k in given if k not in PART and not is_empty(given[k])}
            found.update(unread)
    return found


def wrong_order(messages: Sequence[Message]) -> str:
    """What is wrong with the order of the turns; empty if nothing is."""
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
    """The messages up to the last question: without an answer at the end."""
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def message_key(messages: Sequence[Message]) -> str:
    """Equal for conversations that say the same and of which the same is learned."""
    return "\x1f".join(
        f"{m['content']}{m.get('thought', '')}{'' if m.get('learned', True) else UNLEARNED}"
        for m in messages
    )
