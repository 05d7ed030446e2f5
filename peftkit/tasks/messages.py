"""Reads the messages of conversations: roles, contents, thoughts, and which turns are learned."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from peftkit.parts import RepeatedName, unrepeated

Message = dict[str, Any]
"""`role` (`system`, `user` or `assistant`), `content`; `thought`, where the assistant's turn has
one; `learned`, False for an assistant's turn that is not to be learned."""

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
"""OpenAI's names and ShareGPT's -> the role."""
UNREAD = (
    "tool_calls", "function_call", "tool_call_id", "train_detail", "training_detail",
)  # fmt: skip
"""Keys of a message that would change what is learned, and that peftkit does not read."""
FLAGS = ("weight", "train", "training", "trainable", "loss", "loss_mask", "learn", "supervised")
"""Keys that say whether a turn is learned: OpenAI's, axolotl's, AgentInstruct's, verl's."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts")
"""Keys of an assistant's thought before its answer; a template writes one of them."""
TEXT = ("role", "from", "content", "value")
READ = (*TEXT, *FLAGS, *THOUGHTS)
"""Keys of an assistant's turn; other turns have no thoughts."""
YES, NO = (True, "true", "yes", "1"), (False, "false", "no", "0")
SHOWN = 30
"""Most characters of a wrong value in an error."""


def is_learned(message: Message) -> bool:
    """Whether a turn is an answer to be learned."""
    return message["role"] == "assistant" and bool(message.get("learned", True))


def is_nothing(value: Any) -> bool:
    """Whether a value of a file is empty: null, blank, or text that is such JSON."""
    if isinstance(value, str):
        try:
            return not value.strip() or json.loads(value) in (None, "", [], {})
        except (ValueError, RecursionError):
            return False
    return value is None or (isinstance(value, Mapping | Sequence) and not value)


def read_messages(value: Any, column: str = "messages") -> list[Message] | str:
    """The messages in the form of `Message`, answers stripped; or, as text, what is malformed."""
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
        read = _read_message(item)
        if isinstance(read, str):
            return read
        messages.append(read)
    return messages


def unread_keys(value: Any) -> Counter[str]:
    """Keys of messages that nothing reads -> the number of messages that have one."""
    found: Counter[str] = Counter()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return found
    for item in value if isinstance(value, Sequence) else ():
        if isinstance(item, Mapping):
            answers = ROLES.get(str(item.get("role", item.get("from")))) == "assistant"
            read = READ if answers else (*TEXT, *FLAGS)
            found.update(key for key in item if key not in read and not is_nothing(item[key]))
    return found


def _read_message(item: Any) -> Message | str:
    if not isinstance(item, Mapping):
        return f"a message is {type(item).__name__}, not an object"
    name, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    if name is None:
        return "a message without role"
    if not isinstance(name, str) or name not in ROLES:
        return f"unknown role `{_shown(name)}`"
    if unread := [key for key in UNREAD if not is_nothing(item.get(key))]:
        return f"a message has `{unread[0]}`, which is not read"
    role = ROLES[name]
    if isinstance(content, list):  # OpenAI's parts
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        content = content if None in parts else "".join(map(str, parts))
    if not isinstance(content, str):
        found = "without content" if content is None else "whose content is not text"
        return f"{role} turn {found}"
    message: Message = {"role": role, "content": content}
    if role == "assistant":
        message["content"] = content.strip()
    wrong = _read_flags(item, role, message)
    if role == "assistant":
        wrong = wrong or _read_thought(item, message)
    return wrong or message


def _read_flags(item: Mapping[str, Any], role: str, message: Message) -> str:
    """Sets `learned` in the message; returns what is malformed, or empty."""
    said: dict[str, bool] = {}
    for key in FLAGS:
        value = item.get(key)
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        known = value.strip().casefold() if isinstance(value, str) else value
        if isinstance(known, float) and known.is_integer():
            known = int(known)
        if isinstance(known, str | bool | int) and known in (*YES, *NO):
            said[key] = known in YES
        else:
            return f"a message has `{key}` {_shown(value)}, which is neither true nor false"
    if len(set(said.values())) > 1:
        return f"a message says by `{'`, `'.join(said)}` both that it is learned and that it is not"
    learned = next(iter(said.values()), None)
    if learned and role != "assistant":
        return f"a {role} turn has `{next(iter(said))}` true, and only answers are learned"
    if learned is False and role == "assistant":
        message["learned"] = False
    return ""


def _read_thought(item: Mapping[str, Any], message: Message) -> str:
    """Sets `thought` in the message; returns what is malformed, or empty."""
    given = {key: item[key] for key in THOUGHTS if not is_nothing(item.get(key))}
    if not given:
        return ""
    key, value = next(iter(given.items()))
    if not all(isinstance(text, str) for text in given.values()):
        return f"a message has `{key}` that is not text"
    if len({text.strip() for text in given.values()}) > 1:
        return f"a message has different texts in `{'` and `'.join(given)}`"
    message["thought"] = value.strip()
    return ""


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


def _shown(value: Any) -> str:
    """The beginning of a value that may hold anything."""
    return str(value)[:SHOWN].encode("unicode_escape").decode()
