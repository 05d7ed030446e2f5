"""Encodes conversations and plain texts as examples, and writes notes on rows left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from peftkit.bases.chat_templates import template_label
from peftkit.data.encoded import Examples, Prompt
from peftkit.data.ragged import Ragged
from peftkit.data.rows import Row
from peftkit.errors import DataError
from peftkit.tasks.encoding.chat_format import PROBE, ChatFormat, NotRendered, Tokens, template_for
from peftkit.tasks.reading.messages import is_learned
from peftkit.tasks.reading.single_message import Message
from peftkit.wording import noun, plural

OverLong = Literal["cut_end", "drop_turns", "drop"]
Talk = tuple[Row, list[Message]]
"""A row and its messages, with the recipe's system message if the row has none."""
T = TypeVar("T")
SHOWN_ROWS = 5
ANSWERED = ["assistant", "user"]
"""Roles of two successive turns; a shortened conversation may begin with the second turn."""


def open_format(tokenizer: Any) -> ChatFormat:
    """Reads the tokenizer's chat template and tests it on one question and answer.

    Raises:
        DataError: there is no template, or it cannot be used for training.
    """
    try:
        return ChatFormat.of(tokenizer)
    except NotRendered as error:
        raise _template_error(str(error), tokenizer, PROBE) from error


def render_each(
    talks: Sequence[Talk], chat_format: ChatFormat, render: Callable[[list[Message]], T]
) -> list[T]:
    """Applies `render` to each conversation.

    Raises:
        DataError: the template cannot render a conversation; the message names the row.
    """
    results = []
    for row, messages in talks:
        try:
            results.append(render(messages))
        except NotRendered as error:
            reason = f"{error} (row {row.number})"
            raise _template_error(reason, chat_format.tokenizer, messages) from error
    return results


def encode_conversations(
    split: str, talks: Sequence[Talk], chat_format: ChatFormat, limit: int, over_long: OverLong
) -> tuple[Examples, list[str]]:
    """Encodes the conversations of a split; also returns notes on conversations that are left out
    or suspicious.

    Args:
        limit: most tokens of a conversation.
        over_long: what to do with longer conversations.

    Raises:
        DataError: the template cannot render a conversation, or no row has anything to learn.
    """
    kept: list[tuple[Row, Tokens]] = []
    long: list[Row] = []
    empty: list[Row] = []
    cut = 0
    wholes = render_each(talks, chat_format, chat_format.encode)
    for talk, whole in zip(talks, wholes, strict=True):
        row = talk[0]
        tokens = _shortened(talk, whole, chat_format, limit, over_long)
        if tokens is None:
            long.append(row)
        elif not any(tokens.supervised[1:]):
            empty.append(row)
        else:
            kept.append((row, tokens))
            cut += tokens is not whole
    if not kept:
        longer = sum(len(whole.input_ids) > limit for whole in wholes)
        raise DataError(
            f"no conversation of the {split} split has anything to learn: {longer} of {len(talks)} "
            f"rows are longer than {limit:,} tokens, and {len(talks) - longer} have no answer",
            "raise `task.max_length`, up to what the base reads, or shorten the rows"
            if longer
            else "add assistant turns; nothing else is learned",
        )
    special = [str(t) for t in chat_format.tokenizer.added_tokens_decoder.values() if t.special]
    odd = [row for row, messages in talks if _mentions(messages, special)]
    silent = [row for row, messages in talks if any("thought" in m for m in messages)]
    silent = [] if chat_format.thought_key else silent
    notes = [
        *_note_rows(
            split, silent, "thoughts, which the chat template omits and the model does not learn"
        ),
        *_note_rows(split, empty, f"nothing to learn within {limit:,} tokens, left out"),
        *_note_rows(split, long, f"more than {limit:,} tokens, left out"),
        *_note_rows(split, odd, "the text of a special token, read as that token"),
    ]
    return _examples(kept, cut, len(empty), len(long)), notes


def encode_texts(
    split: str, rows: Sequence[Row], tokenizer: Any, limit: int
) -> tuple[Examples, list[str]]:
    """Adds the end-of-text token to each plain text and splits it into pieces of at most `limit`
    tokens; also returns notes.

    A piece begins with the last token of the previous piece, so that each token is learned once,
    except a text's first.

    Raises:
        DataError: no text of the split has two tokens.
    """
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    kept: list[tuple[Row, Tokens]] = []
    for row in rows:
        ids = tokenizer(row.values["text"], verbose=False)["input_ids"]
        ids = ids if ids[-1:] == end else ids + end
        pieces = [ids[start : start + limit] for start in range(0, len(ids) - 1, limit - 1)]
        kept += [(row, Tokens(piece, [True] * len(piece))) for piece in pieces]
    read = {row.number for row, _ in kept}
    empty = [row for row in rows if row.number not in read]
    if not kept:
        raise DataError(f"no text of the {split} split has more than one token", "add longer texts")
    notes = _note_rows(split, empty, "a single token, left out")
    if len(kept) > len(read):
        pieces_of = f"{plural(len(read), 'text')} became {plural(len(kept), 'piece')}"
        notes.append(f"{split}: {pieces_of} of at most {limit:,} tokens")
    return _examples(kept, unsupervised=len(empty)), notes


def first_questions(
    talks: Sequence[Talk], chat_format: ChatFormat, count: int, room: int
) -> tuple[tuple[Prompt, ...], list[str]]:
    """Makes prompts of the first questions of `count` conversations, evenly spread over the split;
    also returns a note on questions that are too long.

    Args:
        talks: conversations that have an answer.
        count: largest number of conversations.
        room: most tokens of a prompt.
    """
    places = np.linspace(0, len(talks) - 1, min(count, len(talks))).round().astype(int)
    prompts = []
    long = []
    for row, messages in (talks[place] for place in dict.fromkeys(places.tolist())):
        answer = next(turn for turn, message in enumerate(messages) if is_learned(message))
        before = messages[:answer]
        [ids] = render_each([(row, before)], chat_format, chat_format.prompt)
        text = "\n".join(m["content"] for m in before if m["role"] == "user")
        if len(ids) > room:
            long.append(row)
        else:
            prompts.append(Prompt(row.number, text, messages[answer]["content"], int64(ids)))
    return tuple(prompts), _note_rows("samples", long, "too many tokens to be answered")


def int64(values: Sequence[int]) -> npt.NDArray[np.int64]:
    """The values as an int64 array, as `Examples` stores them."""
    return np.array(values, np.int64)


def _shortened(
    talk: Talk,
    whole: Tokens,
    chat_format: ChatFormat,
    limit: int,
    over_long: OverLong,
) -> Tokens | None:
    """The tokens of the conversation, shortened to the limit; None if the row must be left out."""
    if len(whole.input_ids) <= limit:
        return whole
    if over_long == "cut_end":
        return Tokens(whole.input_ids[:limit], whole.supervised[:limit])
    row, messages = talk
    while over_long == "drop_turns" and (messages := _without_oldest(messages)):
        [shorter] = render_each([(row, messages)], chat_format, chat_format.encode)
        if len(shorter.input_ids) <= limit:
            return shorter
    return None


def _without_oldest(messages: list[Message]) -> list[Message]:
    """The messages without the first question and its answer; empty if no turns follow these."""
    roles = [message["role"] for message in messages]
    restarts = [turn for turn in range(1, len(roles)) if roles[turn - 1 : turn + 1] == ANSWERED]
    system = messages[: roles.index("user")]
    return [*system, *messages[restarts[0] :]] if restarts else []


def _examples(
    kept: Sequence[tuple[Row, Tokens]], truncated: int = 0, unsupervised: int = 0, too_long: int = 0
) -> Examples:
    """Makes an example of each conversation; the model predicts each learned token at the position
    before it.
    """
    learned = [np.flatnonzero(tokens.supervised[1:]) for _, tokens in kept]
    ids = [np.array(tokens.input_ids, np.int64) for _, tokens in kept]
    rows = list({id(row): row for row, _ in kept}.values())
    numbers = {id(row): number for number, row in enumerate(rows)}
    return Examples(
        rows=tuple(rows),
        inputs={"input_ids": Ragged.of(ids)},
        targets=np.concatenate(
            [n[1:][at] for n, at in zip(ids, learned, strict=True)] or [np.zeros(0, np.int64)]
        ),
        read_at=Ragged.of(learned, width=1),
        row_of=np.array([numbers[id(row)] for row, _ in kept], np.int64),
        truncated=truncated,
        unsupervised=unsupervised,
        too_long=too_long,
    )


def _mentions(messages: Sequence[Message], special: Sequence[str]) -> bool:
    return any(token in message["content"] for message in messages for token in special)


def _note_rows(split: str, rows: Sequence[Row], what: str) -> list[str]:
    """A list with one note that names the first few rows; empty if there are no rows."""
    if not rows:
        return []
    numbers = ", ".join(str(row.number) for row in rows[:SHOWN_ROWS])
    more = ", ..." if len(rows) > SHOWN_ROWS else ""
    return [
        f"{split}: {plural(len(rows), 'row')} with {what} "
        f"({noun(len(rows), 'row')} {numbers}{more})"
    ]


def _template_error(reason: str, tokenizer: Any, messages: Sequence[Message]) -> DataError:
    """An error about a chat template; its hint names a packaged template that fits, if any."""
    unnamed = f"the chat template of `{tokenizer.name_or_path}`, or the file given instead,"
    message = f"{template_label(tokenizer.chat_template) or unnamed} cannot be used: {reason}"
    if not tokenizer.chat_template:
        message = f"`{tokenizer.name_or_path}` has no chat template"
    fits = template_for(tokenizer, messages)
    return DataError(
        message,
        f"`--base.chat-template {fits}` fits this tokenizer and these messages"
        if fits
        else "write one as a .jinja file and set `base.chat_template` to it; it needs a fast "
        "tokenizer",
    )
