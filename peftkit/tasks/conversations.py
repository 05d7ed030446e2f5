"""Conversations as files hold them, read into messages with a role and a content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from peftkit.data.rows import Table, check_columns
from peftkit.data.source import Source
from peftkit.errors import DataError, quoted
from peftkit.tasks.messages import (
    Message,
    is_nothing,
    read_messages,
    read_turns,
    unanswered,
    unread_keys,
    wrong_order,
)

KINDS = ("messages", "prompt", "completion", "text")
"""Roles of the columns that say what kind of row it is."""
USUAL = (
    {"messages": "messages"},
    {"messages": "conversations"},
    {"prompt": "instruction", "completion": "output"},
    {"prompt": "prompt", "completion": "completion"},
)
"""The columns that are looked for, in this order, where the recipe names none."""
SYSTEM = ("system", "system_prompt", "system_message")
"""Names of the column with the system message; the first that a file has is read."""
UNREAD_COLUMNS = ("tools", "functions", "history")
"""Columns that would change what is learned, and that peftkit does not read."""


class Conversations(Source):
    """Messages, or a prompt and its completion, or plain text. Where the recipe names no column, it
    is `messages` (OpenAI), `conversations` (ShareGPT), `instruction`, `input` and `output` (Alpaca)
    or `prompt` and `completion` (texts, or TRL's lists of messages), whichever the file has; and
    `system`, `system_prompt` or `system_message` beside them.
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
            return {**_beside(table, columns), **columns, **named}
        raise DataError(
            f"`{table.name}` has none of the columns that conversations are looked for in, "
            f"{'; '.join(quoted(usual.values()) for usual in USUAL)}; it has "
            f"{quoted(table.columns)}",
            "rename its columns"
            if not answered
            else "name them: `--task.data.prompt QUESTION --task.data.completion ANSWER`, or "
            "`--task.data.text TEXT` for plain text",
        )


def _beside(table: Table, columns: Mapping[str, str]) -> dict[str, str]:
    """Role -> column, of the usual ones that are read beside those that tell the kind of row."""
    if "text" in columns:
        return {}
    found = {"input": "input"} if "prompt" in columns and "input" in table.columns else {}
    free = [name for name in SYSTEM if name in table.columns and name not in columns.values()]
    return {**found, **({"system": free[0]} if free else {})}


def read_conversation(
    values: Mapping[str, Any], columns: Mapping[str, str], answered: bool = True
) -> dict[str, Any] | str:
    """`messages` or `text` of a row, and `unread`, the keys of its messages that nothing reads; or,
    as a string, what is malformed in it.

    Args:
        columns: role -> column, as `Conversations.columns_of` gives them.
        answered: whether the answer is read too; without, an assistant's turn at the end is not.
    """
    if "text" in columns:
        text = values.get(columns["text"])
        usable = isinstance(text, str) and text.strip()
        return {"text": text} if usable else f"empty {columns['text']}"
    if unread := [name for name in UNREAD_COLUMNS if not is_nothing(values.get(name))]:
        return f"the row has `{unread[0]}`, which is not read"
    read = (_read_messages if "messages" in columns else _read_pair)(values, columns, answered)
    if isinstance(read, str):
        return read
    keys = Counter[str]()
    for role in ("messages", "prompt", "completion"):
        if role in columns:
            keys += unread_keys(values.get(columns[role]))
    systems = _systems(values, columns)
    if read[0]["role"] == "system":  # it goes before those of columns
        own = read[0]["content"].strip()
        keys.update(column for column, text in systems.items() if text.strip() != own)
    elif len({text.strip() for text in systems.values()}) > 1:
        return f"different system messages in {quoted(systems)}"
    elif systems:
        read = [{"role": "system", "content": next(iter(systems.values()))}, *read]
    return {"messages": read, "unread": tuple(sorted(keys.elements()))}


def _read_messages(
    values: Mapping[str, Any], columns: Mapping[str, str], answered: bool
) -> list[Message] | str:
    """A row with a list of messages."""
    read = read_messages(values.get(columns["messages"]), columns["messages"])
    if isinstance(read, str):
        return read
    instruction = values.get("instruction")
    if "instruction" not in columns.values() and isinstance(instruction, str):
        known = any(instruction.strip() in message["content"] for message in read)
        if not known:
            return (
                "the row has `instruction` beside its messages, which is not read (name it: "
                "`--task.data.system instruction`, if it is the system message)"
            )
    return read if answered else unanswered(read)


def _read_pair(
    values: Mapping[str, Any], columns: Mapping[str, str], answered: bool
) -> list[Message] | str:
    """A row with a prompt and its completion: texts, or lists of messages, as TRL has them."""
    asked = _side(values, columns, "prompt")
    if isinstance(asked, str):
        return asked
    if isinstance(values.get(columns["prompt"]), str):
        about = values.get(columns["input"]) if "input" in columns else ""
        if about is not None and not isinstance(about, str):
            return f"{columns['input']} is {type(about).__name__}, not text"
        text = "\n\n".join(filter(None, (asked[0]["content"], (about or "").strip())))
        asked = [{"role": "user", "content": text}]
    for message in asked:
        if message["role"] == "assistant":
            message["learned"] = False  # what was said before; the completion is learned
    answer = _side(values, columns, "completion") if answered else []
    if isinstance(answer, str):
        return answer
    messages = [*asked, *answer]
    return wrong_order(messages) or messages


def _side(values: Mapping[str, Any], columns: Mapping[str, str], role: str) -> list[Message] | str:
    """The messages of a prompt or a completion; what is malformed, as a string."""
    column = columns[role]
    value = values.get(column)
    if value is None:
        return f"{column} is missing"
    if isinstance(value, list):
        return read_turns(value, column)
    if not isinstance(value, str):
        return f"{column} is {type(value).__name__}, not text"
    if not value.strip():
        return f"empty {column}"
    if role == "prompt":
        return [{"role": "user", "content": value}]
    return [{"role": "assistant", "content": value.strip()}]


def _systems(values: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, str]:
    """Column -> system message, of the columns of a row that have one."""
    others = {column for role, column in columns.items() if role != "system"}
    names = dict.fromkeys((columns.get("system", ""), *SYSTEM))
    return {
        name: text
        for name in names
        if name not in others and isinstance(text := values.get(name), str) and text.strip()
    }
