"""The source of conversations, and the table columns that hold them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from pydantic import model_validator

from peftkit.data.rows import Table, check_columns, folded_name
from peftkit.data.source import Source
from peftkit.errors import DataError, quoted
from peftkit.tasks.reading.single_message import FLAGS

KINDS = ("messages", "prompt", "completion", "text")
"""Roles of the columns that decide whether rows are messages, pairs or plain text."""
USUAL = (
    {"messages": "messages"},
    {"messages": "conversations"},
    {"prompt": "instruction", "completion": "output"},
    {"prompt": "prompt", "completion": "completion"},
)
"""Columns to look for if the recipe names none, in this order, each as role -> name. Case, `_`, `-`
and white space in names do not matter."""
SYSTEM = (
    "system", "system_prompt", "system_message", "system_msg", "system_instruction",
    "system_instructions", "sys_prompt", "sys", "developer",
)  # fmt: skip
"""Names of columns with a system message, if the recipe names none."""
UNREAD_COLUMNS = ("tools", "functions", "history")
"""Columns that peftkit does not read although they would change what is learned; a row with a
value in one is malformed."""


class Conversations(Source):
    """A source of messages, or of prompts with completions, or of plain texts.

    If the recipe names no column, peftkit looks for `messages` (OpenAI), `conversations`
    (ShareGPT), `instruction`, `input` and `output` (Alpaca), or `prompt` and `completion` (texts,
    or TRL's lists of messages). It also reads system messages from `system`, `system_prompt`,
    `developer` or similar columns. Case, `_`, `-` and spaces in these names do not matter.
    """

    messages: str = ""
    """Column with a list of messages: objects with `role` and `content`, or `from` and `value`."""
    prompt: str = ""
    """Column with the question; it becomes the user's turn."""
    input: str = ""
    """Column with a text that the prompt refers to; it is added to the prompt after a blank line.
    The text may be empty."""
    completion: str = ""
    """Column with the answer; it becomes the assistant's turn."""
    system: str = ""
    """Column with a system message, which may be empty."""
    text: str = ""
    """Column with plain text. All of the text is learned, without a chat template (continued
    pre-training)."""
    stratum: str = ""
    """Column to stratify the splits by: each value (a language, a source) has the same share in
    every split."""

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
        """Role -> column, for the columns that the recipe names."""
        roles = ("messages", "prompt", "input", "completion", "system", "text", "stratum")
        return {role: getattr(self, role) for role in roles if getattr(self, role)}

    def layout(self, table: Table, answered: bool = True) -> Layout:
        """The layout of a table, from the columns that the recipe names, else from the usual ones.

        Args:
            answered: whether the table must have the completion's column.

        Raises:
            DataError: a named column is missing, or none is named and the table has no usual ones.
        """
        unneeded = ("stratum",) if answered else ("stratum", "completion")
        named = {r: c for r, c in self.named_columns().items() if answered or r not in unneeded}
        check_columns(table, named)
        if layout := _layout(table.columns, tuple(named.items()), answered):
            return layout
        raise DataError(
            f"`{table.name}` has none of the usual columns of conversations, "
            f"{'; '.join(quoted(usual.values()) for usual in USUAL)}; it has "
            f"{quoted(table.columns)}",
            "rename its columns"
            if not answered
            else "name them: `--task.data.prompt QUESTION --task.data.completion ANSWER`, or "
            "`--task.data.text TEXT` for plain text",
        )


@dataclass(frozen=True)
class Layout:
    """Which columns of a table hold its conversations, and what each column is read for."""

    columns: Mapping[str, str]
    """Role -> column: the one that the recipe names, else one with a usual name."""
    named: Collection[str]
    """Roles of the columns that the recipe names."""
    systems: tuple[str, ...]
    """Columns with a system message: the one that the recipe names, else all with usual names."""
    refused: tuple[str, ...]
    """Columns that would change what is learned; a row with a value in one is malformed."""
    flags: tuple[str, ...]
    """Columns that may say whether a row is learned."""
    instructions: tuple[str, ...]
    """Columns beside messages that may hold a system message."""

    @property
    def read(self) -> set[str]:
        """All columns that are read: for content, for system messages, for flags, or because a
        value in them makes a row malformed.
        """
        return {*self.columns.values(), *self.systems, *self.refused, *self.flags}


@lru_cache(maxsize=64)
def _layout(
    table: tuple[str, ...], named_columns: tuple[tuple[str, str], ...], answered: bool
) -> Layout | None:
    """The layout of a table with these columns; None if the recipe names no column and the table
    has no usual ones.
    """
    named = dict(named_columns)
    kinds = {role: column for role, column in named.items() if role in KINDS}
    for usual in USUAL if not kinds else ():
        matches = {
            r: _usual((c,), table)[:1] for r, c in usual.items() if answered or r != "completion"
        }
        if all(matches.values()):
            kinds = {role: column for role, (column,) in matches.items()}
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
    """The columns with one of these names, in the order of the names; exact matches come first."""
    return tuple(
        column
        for name in names
        for column in sorted(columns, key=lambda column: column != name)
        if folded_name(column) == folded_name(name)
    )
