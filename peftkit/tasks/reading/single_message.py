"""Reads one message: its role, content and thought, and whether the model learns it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from peftkit.data.rows import is_empty, is_empty_or_false, is_missing


class Message(TypedDict):
    """A turn of a conversation."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str
    thought: NotRequired[str]
    """The assistant's reasoning before its answer."""
    learned: NotRequired[bool]
    """False for an assistant's turn that the model must not learn."""


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
"""Role name of OpenAI, ShareGPT, Gemma, LangChain or others, in lower case -> peftkit's role."""


FLAGS = (
    "weight", "train", "training", "trainable", "loss", "loss_mask", "train_mask", "learn",
    "supervised",
)  # fmt: skip
"""Names of flags in OpenAI, axolotl, AgentInstruct and verl. As a message key, a flag says whether
the model learns the turn; as a column, whether it learns the row."""


THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts")
"""Keys of the assistant's thought before an answer; a chat template reads at most one of them."""


ROLE = ("role", "from")


CONTENT = ("content", "value")


TEXT = (*ROLE, *CONTENT)


READ = (*TEXT, *FLAGS, *THOUGHTS)
"""Keys that are read from an assistant's turn; thoughts are not read from other turns."""


PART = ("type", "text")
"""Keys that are read from a part of the content, if the content is a list of parts."""


TEXTS = (None, "text", "input_text", "output_text")
"""Values of `type` that mark a part as text."""


YES = (True, "true", "yes", "1")


NO = (False, "false", "no", "0")


def role_of(message: Mapping[str, object]) -> str:
    """The role of a message in lower case; empty if the role is missing or not text."""
    role = next((message[key] for key in ROLE if not is_empty(message.get(key))), None)
    return role.strip().casefold() if isinstance(role, str) else ""


def flag_of(value: Any) -> bool | None:
    """The value of a flag; None if it is neither true nor false."""
    known = value.strip().casefold() if isinstance(value, str) else value
    if isinstance(known, float) and known.is_integer():
        known = int(known)
    if isinstance(known, str | bool | int) and known in (*YES, *NO):
        return known in YES
    return None


def read_message(item: Any) -> Message | str:
    """Reads a message; if it is malformed, returns a string that says how."""
    if not isinstance(item, Mapping):
        return f"a message is {type(item).__name__}, not an object"
    names = {key: item[key] for key in ROLE if not is_empty(item.get(key))}
    if not names:
        return "a message without role"
    roles = {key: ROLES.get(role_of({key: name})) for key, name in names.items()}
    if None in roles.values():
        unknown = next(names[key] for key, role in roles.items() if role is None)
        return f"unknown role `{shown(unknown)}`"
    if len(set(roles.values())) > 1:
        return "a message has different roles in `role` and `from`"
    if unread := [key for key in UNREAD if key in item and not is_empty_or_false(item[key])]:
        return f"a message has `{unread[0]}`, which is not read"
    role = str(next(iter(roles.values())))
    content, wrong = _read_content(item, role)
    message: Message = {"role": role, "content": content if role == "user" else content.strip()}
    wrong = wrong or _read_flags(item, role, message)
    if role == "assistant":
        wrong = wrong or _read_thought(item, message)
    return wrong or message


def _read_content(item: Mapping[str, object], role: str) -> tuple[str, str]:
    """Returns a message's text and an error text, which is empty if nothing is malformed."""
    contents = [join_parts(item[key]) for key in CONTENT if not is_missing(item.get(key))]
    if not contents:
        return "", f"{role} turn without content"
    texts = [text for text in contents if isinstance(text, str)]
    if len(texts) < len(contents):
        return "", f"{role} turn whose content is not text"
    filled = [text for text in texts if text.strip()]
    if len({text.strip() for text in filled}) > 1:
        return "", "a message has different texts in `content` and `value`"
    return (filled or texts)[0], ""


def join_parts(content: Any) -> Any:
    """Joins the texts of content that is a list of text parts (OpenAI's format); returns other
    content unchanged.
    """
    if not isinstance(content, list):
        return content
    parts = [part for part in content if isinstance(part, Mapping) and part.get("type") in TEXTS]
    texts = [text for part in parts if isinstance(text := part.get("text"), str)]
    return "".join(texts) if len(texts) == len(content) else content


def _read_flags(item: Mapping[str, object], role: str, message: Message) -> str:
    """Sets the message's `learned` by its flags; returns what is malformed, or an empty text."""
    flags: dict[str, bool] = {}
    for key in FLAGS:
        if key not in item or is_empty(value := item[key]):
            continue
        flag = flag_of(value)
        if flag is None:
            return f"a message has `{key}` {shown(value)}, which is neither true nor false"
        flags[key] = flag
    if len(set(flags.values())) > 1:
        return f"a message has contradictory flags `{'`, `'.join(flags)}`"
    learned = next(iter(flags.values()), None)
    if learned and role != "assistant":
        return f"a {role} turn has `{next(iter(flags))}` true, and only answers are learned"
    if learned is False and role == "assistant":
        message["learned"] = False
    return ""


def _read_thought(item: Mapping[str, object], message: Message) -> str:
    """Sets the message's thought, if there is one; returns what is malformed, or an empty text."""
    thoughts = {key: item[key] for key in THOUGHTS if key in item and not is_empty(item[key])}
    if not thoughts:
        return ""
    texts = [text.strip() for text in thoughts.values() if isinstance(text, str)]
    if len(texts) < len(thoughts):
        return f"a message has `{next(iter(thoughts))}` that is not text"
    if len(set(texts)) > 1:
        return f"a message has different texts in `{'` and `'.join(thoughts)}`"
    message["thought"] = texts[0]
    return ""


UNREAD = (
    "tool_calls", "function_call", "tool_call_id", "train_detail", "training_detail",
)  # fmt: skip
"""Keys that peftkit does not read although they would change what is learned; a message that has
one is malformed."""


SHOWN = 30
"""Maximum number of characters of a wrong value in an error message."""


def shown(value: Any) -> str:
    """The beginning of a value as text, for error messages."""
    if isinstance(value, bool):
        return str(value).lower()
    try:
        text = str(value)
    except RecursionError:
        text = type(value).__name__
    return text[:SHOWN].encode("unicode_escape").decode()
