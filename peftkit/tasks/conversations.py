"""Conversations as files hold them, read into messages with a role and a content."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from pydantic import model_validator

from peftkit.data.rows import Table, check_columns
from peftkit.data.source import Source
from peftkit.errors import DataError, quoted

Message = dict[str, str]
"""`role` (`system`, `user` or `assistant`) and `content`."""

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
"""OpenAI's names and ShareGPT's -> the role."""
UNREAD = ("weight", "tool_calls", "function_call", "tool_call_id", "reasoning_content", "thinking")
"""Keys of a message that would change what is learned, and that peftkit does not read."""
SHOWN = 30
"""Characters of a wrong value that a message repeats."""
KINDS = ("messages", "prompt", "completion", "text")
"""Roles of the columns that say what kind of row it is."""
USUAL = (
    {"messages": "messages"},
    {"messages": "conversations"},
    {"prompt": "instruction", "completion": "output"},
    {"prompt": "prompt", "completion": "completion"},
)
"""The columns that are looked for, in this order, where the recipe names none."""
USUAL_BESIDE = {"prompt": ("input", "system"), "messages": ("system",)}
"""Kind of row -> further columns that are read where they are there."""
UNREAD_COLUMNS = ("tools", "functions", "history")
"""Columns that would change what is learned, and that peftkit does not read."""


class Conversations(Source):
    """Messages, or a prompt and its completion, or plain text. Where the recipe names no column, it
    is `messages` (OpenAI), `conversations` (ShareGPT), `instruction`, `input` and `output` (Alpaca)
    or `prompt` and `completion`, whichever the file has.
    """

    messages: str = ""
    """Column with a list of messages: objects with `role` and `content`, or `from` and `value`."""
    prompt: str = ""
    """Column with what is asked; it becomes the user's turn."""
    input: str = ""
    """Column with what the prompt is about, which may be empty; it follows the prompt after a blank
    line."""
    completion: str = ""
    """Column with the answer; it becomes the assistant's turn."""
    system: str = ""
    """Column with a system message, which may be empty."""
    text: str = ""
    """Column with plain text, all of which is learned, without a chat template (continued
    pre-training)."""
    stratum: str = ""
    """Column whose values every split gets in their shares (a language, a source)."""

    @model_validator(mode="after")
    def _check_columns(self) -> Conversations:
        if bool(self.prompt) != bool(self.completion):
            raise ValueError("`prompt` and `completion` belong together; give both or none")
        kinds = [name for name in ("messages", "prompt", "text") if getattr(self, name)]
        if len(kinds) > 1:
            raise ValueError(f"{quoted(kinds)} are different kinds of rows; give one of them")
        if self.input and kinds and not self.prompt:
            raise ValueError("`input` is for rows with `prompt` and `completion`")
        if self.system and self.text:
            raise ValueError("`system` is for conversations, and `text` is plain text")
        return self

    def named_columns(self) -> dict[str, str]:
        """Role -> column, of those that the recipe names."""
        roles = ("messages", "prompt", "input", "completion", "system", "text", "stratum")
        return {role: getattr(self, role) for role in roles if getattr(self, role)}

    def columns_of(self, table: Table, answered: bool = True) -> dict[str, str]:
        """Role -> column of a table: those that are named, else the usual ones it has.

        Args:
            answered: whether a completion must be there.

        Raises:
            DataError: a column is missing, or none of the usual ones is there.
        """
        needless = ("stratum",) if answered else ("stratum", "completion")
        named = {r: c for r, c in self.named_columns().items() if answered or r not in needless}
        check_columns(table, named)
        columns = {role: column for role, column in named.items() if role in KINDS}
        for usual in USUAL if not columns else ():
            wanted = {r: c for r, c in usual.items() if answered or r != "completion"}
            if set(wanted.values()) <= set(table.columns):
                columns = wanted
                break
        readable = "prompt" in columns or "input" not in named
        if columns and readable:
            kind = "messages" if "messages" in columns else "prompt"
            beside = () if "text" in columns else USUAL_BESIDE[kind]
            return {**{c: c for c in beside if c in table.columns}, **columns, **named}
        raise DataError(
            f"`{table.name}` has none of the columns that conversations are looked for in, "
            f"{'; '.join(quoted(usual.values()) for usual in USUAL)}; it has "
            f"{quoted(table.columns)}",
            "rename its columns"
            if not answered
            else "name them: `--task.data.prompt QUESTION --task.data.completion ANSWER`, or "
            "`--task.data.text TEXT` for plain text",
        )


def read_conversation(
    values: Mapping[str, Any], columns: Mapping[str, str], answered: bool = True
) -> dict[str, Any] | str:
    """`messages` or `text` of a row; or, as a string, what is malformed in it.

    Args:
        columns: role -> column, as `Conversations.columns_of` gives them.
        answered: whether the answer is read too; without, an assistant's turn at the end is not.
    """
    if "text" in columns:
        text = values.get(columns["text"])
        usable = isinstance(text, str) and text.strip()
        return {"text": text} if usable else f"empty {columns['text']}"
    if unread := [name for name in UNREAD_COLUMNS if values.get(name)]:
        return f"the row has `{unread[0]}`, which is not read"
    if "messages" in columns:
        read = read_messages(values.get(columns["messages"]), columns["messages"])
        if isinstance(read, str):
            return read
        return {"messages": _with_system(values, columns, read if answered else unanswered(read))}
    return _read_pair(values, columns, answered)


def read_messages(value: Any, column: str = "messages") -> list[Message] | str:
    """A list of messages in the names of this module, answers without white space around them; or,
    as a string, what is malformed.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)  # the cell of a CSV
        except ValueError:
            return f"{column} is text, not a list of messages"
    if not isinstance(value, Sequence) or isinstance(value, str):
        return f"{column} is {type(value).__name__}, not a list of messages"
    messages: list[Message] = []
    for item in value:
        read = _read_message(item)
        if isinstance(read, str):
            return read
        messages.append(read)
    return _wrong_order([message["role"] for message in messages]) or messages


def _read_message(item: Any) -> Message | str:
    if not isinstance(item, Mapping):
        return f"a message is {type(item).__name__}, not an object"
    name, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    if name is None:
        return "a message without role"
    if not isinstance(name, str) or name not in ROLES:
        shown = str(name)[:SHOWN].encode("unicode_escape").decode()  # it may hold anything
        return f"unknown role `{shown}`"
    if unread := [key for key in UNREAD if item.get(key) not in (None, [], {}, "")]:
        return f"a message has `{unread[0]}`, which is not read"
    role = ROLES[name]
    if isinstance(content, list):  # OpenAI's parts
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        content = content if None in parts else "".join(map(str, parts))
    if not isinstance(content, str):
        found = "without content" if content is None else "whose content is not text"
        return f"{role} turn {found}"
    return {"role": role, "content": content.strip() if role == "assistant" else content}


def _wrong_order(roles: Sequence[str]) -> str:
    """What is wrong with the order of the turns; empty if nothing is."""
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


def _read_pair(
    values: Mapping[str, Any], columns: Mapping[str, str], answered: bool
) -> dict[str, Any] | str:
    """A row with a prompt and its completion."""
    read: dict[str, str] = {}
    for role, column in columns.items():
        value = values.get(column)
        if role == "stratum" or (role == "completion" and not answered):
            continue
        if value is None and role in ("input", "system"):
            value = ""
        if not isinstance(value, str):
            found = "missing" if value is None else f"{type(value).__name__}, not text"
            return f"{column} is {found}"
        if not value.strip() and role not in ("input", "system"):
            return f"empty {column}"
        read[role] = value
    asked = "\n\n".join(filter(None, (read["prompt"], read.get("input", "").strip())))
    messages: list[Message] = [{"role": "user", "content": asked}]
    if answered:
        messages.append({"role": "assistant", "content": read["completion"].strip()})
    return {"messages": _with_system(values, columns, messages)}


def unanswered(messages: list[Message]) -> list[Message]:
    """The messages up to the last question: without an answer at the end."""
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def _with_system(
    values: Mapping[str, Any], columns: Mapping[str, str], messages: list[Message]
) -> list[Message]:
    """The messages after the row's system message, if it has one and they have none."""
    system = values.get(columns["system"]) if "system" in columns else None
    if not isinstance(system, str) or not system.strip() or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]
