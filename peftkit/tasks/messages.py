"""Messages of a conversation as files hold them: roles, contents, thoughts, which are learned."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from peftkit.data.rows import is_absent, is_missing, is_nothing
from peftkit.parts.json_values import RepeatedName, unrepeated

Message = dict[str, Any]
"""`role` (`system`, `user` or `assistant`), `content`; `thought`, where the assistant's turn has
one; `learned`, False for an assistant's turn that is not to be learned."""

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "ai": "assistant",
}
"""Names of OpenAI, ShareGPT, Gemma, LangChain and others, in lower case -> the role."""
UNREAD = (
    "tool_calls", "function_call", "tool_call_id", "train_detail", "training_detail",
)  # fmt: skip
"""Keys of a message that would change what is learned, and that peftkit does not read."""
FLAGS = (
    "weight", "train", "training", "trainable", "loss", "loss_mask", "train_mask", "learn",
    "supervised",
)  # fmt: skip
"""Keys of a turn, or columns beside the messages, that say whether it is learned: OpenAI's,
axolotl's, AgentInstruct's, verl's."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts")
"""Keys of what an assistant thinks before it answers; templates write it under one of them."""
ROLE, CONTENT = ("role", "from"), ("content", "value")
TEXT = (*ROLE, *CONTENT)
READ = (*TEXT, *FLAGS, *THOUGHTS)
"""Keys of an assistant's turn; other turns have no thoughts."""
PART = ("type", "text")
"""Keys of a part, where the content is a list."""
TEXTS = (None, "text", "input_text", "output_text")
"""Types of parts that are text."""
YES, NO = (True, "true", "yes", "1"), (False, "false", "no", "0")
WRITTEN = re.compile(
    rf"""\s*\[\s*\{{\s*(['"])(?:role|from)\1\s*:\s*(['"])(?:{"|".join(ROLES)})\2""",
    re.IGNORECASE,
)
"""The beginning of a list of messages that was written as text."""
SHOWN = 30
"""Characters of a wrong value that a message repeats."""


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
        if not any(_role(turn) in ROLES for turn in turns):
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
        _role(value) and value.keys() & {*CONTENT, *UNREAD, *THOUGHTS}
    )


def _role(message: Mapping[str, Any]) -> str:
    """What a message gives as its role, in lower case; empty if nothing, or no text."""
    given = next((message[key] for key in ROLE if not is_nothing(message.get(key))), None)
    return given.strip().casefold() if isinstance(given, str) else ""


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
        read = _read_message(item)
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
    if is_absent(value):
        return []
    turns = opened(value)
    if isinstance(turns, str):
        if written(turns):
            return f"{column} looks like a list of messages, and is not JSON"
        turns = [{"role": "system", "content": turns}]
    elif not isinstance(turns, list):
        return f"{column} is {type(value).__name__}, not text"
    elif all(isinstance(turn, Mapping) and "text" in turn and not _role(turn) for turn in turns):
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
            answers = ROLES.get(_role(item)) == "assistant"
            read = READ if answers else (*TEXT, *FLAGS)
            unread = {key for key in item if key not in read and not is_nothing(item[key])}
            for key in CONTENT:
                parts = item.get(key)
                for part in parts if isinstance(parts, list) else ():
                    given = part if isinstance(part, Mapping) else {}
                    unread |= {k for k in given if k not in PART and not is_nothing(given[k])}
            found.update(unread)
    return found


def flag_of(value: Any) -> bool | None:
    """What a flag says; None if it is neither true nor false."""
    known = value.strip().casefold() if isinstance(value, str) else value
    if isinstance(known, float) and known.is_integer():
        known = int(known)
    if isinstance(known, str | bool | int) and known in (*YES, *NO):
        return known in YES
    return None


def _read_message(item: Any) -> Message | str:
    if not isinstance(item, Mapping):
        return f"a message is {type(item).__name__}, not an object"
    names = {key: item[key] for key in ROLE if not is_nothing(item.get(key))}
    if not names:
        return "a message without role"
    roles = {key: ROLES.get(_role({key: name})) for key, name in names.items()}
    if None in roles.values():
        unknown = next(names[key] for key, role in roles.items() if role is None)
        return f"unknown role `{shown(unknown)}`"
    if len(set(roles.values())) > 1:
        return "a message has different roles in `role` and `from`"
    if unread := [key for key in UNREAD if key in item and not is_absent(item[key])]:
        return f"a message has `{unread[0]}`, which is not read"
    role = str(next(iter(roles.values())))
    content, wrong = _read_content(item, role)
    message: Message = {"role": role, "content": content if role == "user" else content.strip()}
    wrong = wrong or _read_flags(item, role, message)
    if role == "assistant":
        wrong = wrong or _read_thought(item, message)
    return wrong or message


def _read_content(item: Mapping[str, Any], role: str) -> tuple[str, str]:
    """The text of a message; and what is malformed in it, or empty."""
    given = [_joined(item[key]) for key in CONTENT if not is_missing(item.get(key))]
    if not given:
        return "", f"{role} turn without content"
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) < len(given):
        return "", f"{role} turn whose content is not text"
    said = [text for text in texts if text.strip()]
    if len({text.strip() for text in said}) > 1:
        return "", "a message has different texts in `content` and `value`"
    return (said or texts)[0], ""


def _joined(content: Any) -> Any:
    """The text of OpenAI's parts; content of other kinds as it is."""
    if not isinstance(content, list):
        return content
    parts = [part for part in content if isinstance(part, Mapping) and part.get("type") in TEXTS]
    texts = [text for part in parts if isinstance(text := part.get("text"), str)]
    return "".join(texts) if len(texts) == len(content) else content


def _read_flags(item: Mapping[str, Any], role: str, message: Message) -> str:
    """Notes in the message whether it is learned; what is malformed, or empty."""
    said: dict[str, bool] = {}
    for key in FLAGS:
        if key not in item or is_nothing(value := item[key]):
            continue
        flag = flag_of(value)
        if flag is None:
            return f"a message has `{key}` {shown(value)}, which is neither true nor false"
        said[key] = flag
    if len(set(said.values())) > 1:
        return f"a message says by `{'`, `'.join(said)}` both that it is learned and that it is not"
    learned = next(iter(said.values()), None)
    if learned and role != "assistant":
        return f"a {role} turn has `{next(iter(said))}` true, and only answers are learned"
    if learned is False and role == "assistant":
        message["learned"] = False
    return ""


def _read_thought(item: Mapping[str, Any], message: Message) -> str:
    """Puts the thought that comes with an answer into the message; what is malformed, or empty."""
    given = {key: item[key] for key in THOUGHTS if key in item and not is_nothing(item[key])}
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


def shown(value: Any) -> str:
    """The beginning of a value that may hold anything, as JSON writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    try:
        text = str(value)
    except RecursionError:
        text = type(value).__name__
    return text[:SHOWN].encode("unicode_escape").decode()
