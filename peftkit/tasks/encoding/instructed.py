"""Encodes texts to write as answers of a chat: the instruction is the user's turn.

An encoder-decoder reads a text and writes another. A causal base does the same in its chat
template, where the loss is on the answer only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from peftkit.bases.opened import OpenedBase
from peftkit.data.encoded import Examples, Prompt
from peftkit.data.rows import Row
from peftkit.errors import DataError
from peftkit.tasks.encoding.chat_encoding import (
    encode_conversations,
    int64,
    open_format,
    render_each,
)
from peftkit.tasks.encoding.chat_format import ChatFormat
from peftkit.tasks.reading.single_message import Message

PLACE = re.compile(r"\{(\w+)\}")
"""A place in an instruction, with the name of the text that stands there."""
LEAST = 8
"""Fewest tokens of a text that must fit beside the instruction and the answer."""


@dataclass(frozen=True)
class Instruction:
    """How a causal base is asked, and how long texts may be."""

    chat_format: ChatFormat
    wording: str
    """The user's turn, with a place such as `{source}` for each text."""
    cut: str
    """Name of the text that is cut at the end if it is too long."""
    max_length: int
    """Most tokens of that text."""
    max_target_length: int
    """Most tokens of an answer."""

    @classmethod
    def of(
        cls, base: OpenedBase, wording: str, cut: str, lengths: tuple[int, int], reserved: int
    ) -> Instruction:
        """Fits the limits to what the base reads.

        Args:
            lengths: most tokens of the text that may be cut, and of an answer that is learned.
            reserved: number of tokens to leave for an answer.

        Raises:
            DataError: the base has no usable chat template, or has no room for a text.
        """
        chat_format = open_format(base.tokenizer)
        made = cls(chat_format, wording, cut, *lengths)
        blank = chat_format.prompt([_user(PLACE.sub("", wording))])
        room = int(base.tokenizer.model_max_length) - len(blank) - reserved
        if room < LEAST:
            raise DataError(
                f"the base reads {base.tokenizer.model_max_length:,} tokens; {len(blank):,} of the "
                f"instruction and {reserved:,} of an answer leave no room for a text",
                "lower `task.max_target_length` or `task.generation.max_new_tokens`",
            )
        return replace(made, max_length=min(lengths[0], room))

    def asked(self, texts: Mapping[str, str]) -> tuple[list[Message], bool]:
        """Returns the messages of a prompt, and whether a text was cut."""
        shortened, cut = self._shortened(texts[self.cut], self.max_length)
        return [_user(filled(self.wording, {**texts, self.cut: shortened}))], cut

    def answered(self, target: str) -> tuple[Message, bool]:
        """Returns the answer as a message, and whether it was cut."""
        shortened, cut = self._shortened(target, self.max_target_length)
        return {"role": "assistant", "content": shortened}, cut

    def prompt(self, row: Row, texts: Mapping[str, str]) -> list[int]:
        """The token ids of a prompt."""
        messages, _ = self.asked(texts)
        [ids] = render_each([(row, messages)], self.chat_format, self.chat_format.prompt)
        return ids

    def refuse_long(self, rows: Sequence[Row], texts: Sequence[Mapping[str, str]]) -> None:
        """Raises DataError if a text is longer than `max_length`."""
        for row, values in zip(rows, texts, strict=True):
            if self._shortened(values[self.cut], self.max_length)[1]:
                raise DataError(
                    f"a text has more than {self.max_length:,} tokens, which is all that is read"
                    + f" (row {row.number})" * (len(rows) > 1),
                    "shorten the text",
                )

    def _shortened(self, text: str, limit: int) -> tuple[str, bool]:
        """Cuts a text at its end after `limit` tokens."""
        read = self.chat_format.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        if len(read["input_ids"]) <= limit:
            return text, False
        return text[: read["offset_mapping"][limit - 1][1]].rstrip(), True


@dataclass(frozen=True)
class Instructed:
    """A split as a causal base reads it."""

    examples: Examples
    prompts: tuple[Prompt, ...]
    notes: tuple[str, ...]


def encode_instructed(
    split: str,
    rows: Sequence[Row],
    texts: Sequence[Mapping[str, str]],
    instruction: Instruction,
    num_prompts: int,
) -> Instructed:
    """Encodes the prompt and the first target of each row, and the prompts of the first rows.

    Args:
        texts: name of a place in the instruction -> text, for each row.
        num_prompts: number of rows for which the model writes.
    """
    talks, cut = [], 0
    for row, values in zip(rows, texts, strict=True):
        messages, cut_text = instruction.asked(values)
        answer, cut_target = instruction.answered(row.values["targets"][0])
        talks.append((row, [*messages, answer]))
        cut += cut_text + cut_target
    chat_format = instruction.chat_format
    limit = int(chat_format.tokenizer.model_max_length)
    examples, notes = encode_conversations(split, talks, chat_format, limit, "drop")
    prompts = tuple(
        Prompt(
            row.number, values[instruction.cut], expected,
            int64(instruction.prompt(row, values)), tuple(others),
        )
        for row, values in zip(rows[:num_prompts], texts, strict=False)
        for expected, *others in [row.values["targets"]]
    )  # fmt: skip
    return Instructed(replace(examples, truncated=cut), prompts, tuple(notes))


def longest(texts: Sequence[str], tokenizer: Any) -> int:
    """The number of tokens of the longest text."""
    read = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return max(map(len, read), default=0)


def filled(wording: str, texts: Mapping[str, str]) -> str:
    """Returns a wording with the texts at their places."""
    return PLACE.sub(lambda place: texts.get(place[1], place[0]), wording)


def places(wording: str) -> list[str]:
    """Names of the places in a wording."""
    return PLACE.findall(wording)


def _user(content: str) -> Message:
    return {"role": "user", "content": content}
