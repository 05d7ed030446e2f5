"""Conversations as files hold them, read into messages with a role and a content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import model_validator

from peftkit.data.rows import Table, check_columns, is_absent, is_missing, is_nothing, spelled
from peftkit.data.source import Source
from peftkit.errors import DataError, quoted
from peftkit.parts.json_values import RepeatedName
from peftkit.tasks.messages import (
    FLAGS,
    Message,
    flag_of,
    opened,
    read_messages,
    read_system,
    read_turns,
    shown,
    unanswered,
    unread_keys,
    written,
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
"""The columns that are looked for, in this order, where the recipe names none. All names of columns
are compared without case, `_`, `-` and white space."""
SYSTEM = (
    "system", "system_prompt", "system_message", "system_msg", "system_instruction",
    "system_instructions", "sys_prompt", "sys", "developer",
)  # fmt: skip
"""Names of the columns with the system message, where the recipe names none."""
UNREAD_COLUMNS = ("tools", "functions", "history")
"""Columns that would change what is learned, and that peftkit does not read."""


class Conversations(Source):
    """Messages, or a prompt and its completion, or plain text. Where the recipe names no column, it
    is `messages` (OpenAI), `conversations` (ShareGPT), `instruction`, `input` and `output` (Alpaca)
    or `prompt` and `completion` (texts, or TRL's lists of messages), whichever the file has; and
    `system`, `system_prompt`, `developer` or the like beside them. Case, `_`, `-` and spaces make
    no difference in these names.
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

    def layout(self, table: Table, answered: bool = True) -> Layout:
        """The columns of a table: those that are named, else the usual ones it has.

        Args:
            answered: whether a completion must be there.

        Raises:
            DataError: a column is missing, or none of the usual ones is there.
        """
        needless = ("stratum",) if answered else ("stratum", "completion")
        named = {r: c for r, c in self.named_columns().items() if answered or r not in needless}
        check_columns(table, named)
        if layout := _layout(table.columns, tuple(named.items()), answered):
            return layout
        raise DataError(
            f"`{table.name}` has none of the columns that conversations are looked for in, "
            f"{'; '.join(quoted(usual.values()) for usual in USUAL)}; it has "
            f"{quoted(table.columns)}",
            "rename its columns"
            if not answered
            else "name them: `--task.data.prompt QUESTION --task.data.completion ANSWER`, or "
            "`--task.data.text TEXT` for plain text",
        )


@dataclass(frozen=True)
class Layout:
    """The columns of a table that have to do with its conversations."""

    columns: Mapping[str, str]
    """Role -> column: those that the recipe names, else the usual ones."""
    named: Collection[str]
    """Roles of the columns that the recipe names."""
    systems: tuple[str, ...]
    """Columns with a system message: the one that the recipe names, else all of a usual name."""
    refused: tuple[str, ...]
    """Columns that would change what is learned; a row that has one is malformed."""
    flags: tuple[str, ...]
    """Columns that may say whether a row is learned."""
    instructions: tuple[str, ...]
    """Columns beside messages that may hold a system message."""

    @property
    def read(self) -> set[str]:
        """All columns that are read in some row, or named in a note of their own."""
        return {*self.columns.values(), *self.systems, *self.refused, *self.flags}


@lru_cache(maxsize=64)
def _layout(
    table: tuple[str, ...], named_columns: tuple[tuple[str, str], ...], answered: bool
) -> Layout | None:
    """The layout of a table with these columns; None if it has none of the usual ones."""
    named = dict(named_columns)
    kinds = {role: column for role, column in named.items() if role in KINDS}
    for usual in USUAL if not kinds else ():
        found = {
            r: _usual((c,), table)[:1] for r, c in usual.items() if answered or r != "completion"
        }
        if all(found.values()):
            kinds = {role: column for role, (column,) in found.items()}
            break
    if not kinds or ("input" in named and "prompt" not in kinds):
        return None
    columns = {**kinds, **named}
    free = [column for column in table if column not in kinds.values()]
    if "prompt" in kinds and "input" not in named and (about := _usual(("input",), free)):
        columns["input"] = about[0]
    beside = [column for column in free if column != columns.get("input")]
    free = [column for column in beside if column not in named.values()]
    talks = "text" not in kinds
    systems = (named["system"],) if "system" in named else _usual(SYSTEM, beside)
    return Layout(
        columns,
        tuple(named),
        systems=systems if talks else (),
        refused=_usual(UNREAD_COLUMNS, free) if talks else (),
        flags=_usual(FLAGS, free),
        instructions=_usual(("instruction",), free) if "messages" in kinds else (),
    )


def _usual(names: Iterable[str], columns: Iterable[str]) -> tuple[str, ...]:
    """The columns that have one of these names, in the order of the names, exact ones first."""
    return tuple(
        column
        for name in names
        for column in sorted(columns, key=lambda column: column != name)
        if spelled(column) == spelled(name)
    )


def read_conversation(
    values: Mapping[str, Any], layout: Layout, answered: bool = True
) -> dict[str, Any] | str:
    """`messages` or `text` of a row; `unread`, the keys of its messages and the columns beside them
    that nothing reads; `overruled`, the columns with another system message than its first turn;
    or, as a string, what is malformed in it.

    Args:
        layout: as `Conversations.layout` gives it.
        answered: whether the answer is read too; without, an assistant's turn at the end is not.
    """
    given = {name: value for name in layout.flags if not is_nothing(value := values.get(name))}
    flags = {name: _row_flag(name, value) for name, value in given.items()}
    if answered and (off := [name for name, flag in flags.items() if flag is False]):
        return f"`{off[0]}` is {shown(given[off[0]])}"
    unread = Counter(name for name, flag in flags.items() if flag is None)
    if "text" in layout.columns:
        text = values.get(layout.columns["text"])
        usable = isinstance(text, str) and text.strip()
        read = {"text": text, "unread": tuple(sorted(unread))}
        return read if usable else f"empty {layout.columns['text']}"
    if refused := [name for name in layout.refused if not is_absent(values.get(name))]:
        return f"the row has `{refused[0]}`, which is not read"
    try:
        return _read_talk(values, layout, answered, unread)
    except RepeatedName as error:
        return f"names `{error.name}` twice"


def _row_flag(name: str, value: Any) -> bool | None:
    """What a flag beside the messages says; a `loss` with a fraction is a measurement."""
    return None if spelled(name) == "loss" and isinstance(value, float) else flag_of(value)


def _read_talk(
    values: Mapping[str, Any], layout: Layout, answered: bool, unread: Counter[str]
) -> dict[str, Any] | str:
    """As `read_conversation`, of a row with messages.

    Args:
        unread: columns that nothing reads.
    """
    read = (_read_messages if "messages" in layout.columns else _read_pair)(
        values, layout, answered
    )
    if isinstance(read, str):
        return read
    systems: dict[str, str] = {}
    for column in layout.systems:
        given = read_system(values.get(column), column)
        if isinstance(given, str):
            return given
        if given:
            systems[column] = given[0]["content"]
    for column in (*_turn_columns(layout, answered), *systems):
        unread += unread_keys(opened(values.get(column)))
    if (about := _unread_input(values, layout)) and "input" in layout.named:
        return f"the row has `{about}` beside a prompt of messages, which leaves no place for it"
    unread.update(filter(None, [about]))
    overruled: list[str] = []
    if read[0]["role"] == "system":  # it goes before those of columns
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
    """The columns that hold turns."""
    roles = ("messages", "prompt", "completion") if answered else ("messages", "prompt")
    return [layout.columns[role] for role in roles if role in layout.columns]


def _unread_input(values: Mapping[str, Any], layout: Layout) -> str:
    """The column of the input, if it holds something that the row's prompt has no place for."""
    column = layout.columns.get("input", "")
    listed = isinstance(opened(values.get(layout.columns.get("prompt", ""))), list)
    return column if listed and not is_nothing(values.get(column)) else ""


def _read_messages(
    values: Mapping[str, Any], layout: Layout, answered: bool
) -> list[Message] | str:
    """A row with a list of messages."""
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


def _read_pair(values: Mapping[str, Any], layout: Layout, answered: bool) -> list[Message] | str:
    """A row with a prompt and its completion: texts, or lists of messages, as TRL has them."""
    columns = layout.columns
    asked = _side(values, columns, "prompt")
    if isinstance(asked, str):
        return asked
    if isinstance(opened(values.get(columns["prompt"])), str):
        about = values.get(columns["input"]) if "input" in columns else ""
        if not is_missing(about) and not isinstance(about, str):
            return f"{columns['input']} is {type(about).__name__}, not text"
        about = about.strip() if isinstance(about, str) else ""
        text = "\n\n".join(filter(None, (asked[0]["content"], about)))
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
    value = opened(values.get(column))
    if is_missing(value):
        return f"{column} is missing"
    if isinstance(value, list):
        return read_turns(value, column)
    if not isinstance(value, str) or not value.strip():
        kind = type(value).__name__
        return f"empty {column}" if kind == "str" else f"{column} is {kind}, not text"
    if written(value):
        return f"{column} looks like a list of messages, and is not JSON"
    if role == "prompt":
        return [{"role": "user", "content": value}]
    return [{"role": "assistant", "content": value.strip()}]
