"""Chat: conversations, of which the assistant's turns are learned; or plain text, all of it.

    loss = - sum log p(token | all before it)    over the tokens of answers and of their ends

Instruction tuning (Wei et al. 2021, arXiv:2109.01652) with the loss on answers only, and continued
pre-training (Gururangan et al. 2020, arXiv:2004.10964) for rows of plain text.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from peftkit.data.rows import Row
from peftkit.errors import DataError, RecipeError
from peftkit.tasks.conversations import Conversations, Message, read_conversation, read_messages
from peftkit.tasks.generation import Generation
from peftkit.tasks.task import Piece, Reads, Score, Task

if TYPE_CHECKING:
    import torch

    from peftkit.data.encoded import Encoded, Examples, Head, Prompt
    from peftkit.data.rows import Table
    from peftkit.data.splits import Splits
    from peftkit.tasks.chat_format import ChatFormat, Tokens
    from peftkit.tasks.task import Outputs

SHOWN_ROWS = 5
ANSWERED = ["assistant", "user"]
"""Where a conversation can begin anew."""


class Chat(Task):
    """Answers in conversations, written by a causal language model."""

    task_type: ClassVar[str] = "CAUSAL_LM"
    reads: ClassVar[Reads] = "labelled"
    scores: ClassVar[tuple[str, ...]] = ("loss", "token_accuracy")

    data: Conversations
    """The conversations."""
    system: str = ""
    """System message of conversations that have none; empty to leave them as they are."""
    max_length: int = Field(default=1024, ge=8)
    """Tokens per conversation; the base may allow less."""
    over_long: Literal["cut_end", "drop_turns", "drop"] = "cut_end"
    """What is done with longer ones: cut them at the end, leave out their oldest turns until they
    fit, or leave out the rows. Plain text is divided into pieces instead."""
    samples: int = Field(default=3, ge=0)
    """Test conversations whose first question is answered before and after training."""
    generation: Generation = Generation()
    """How answers are written: in those samples, in `peftkit chat` and `predict`."""

    @property
    def source(self) -> Conversations:
        return self.data

    @property
    def columns(self) -> Mapping[str, str]:
        return self.data.named_columns()

    def read_row(self, values: Mapping[str, Any], table: Table) -> dict[str, Any] | str:
        columns = self.data.columns_of(table)
        read = read_conversation(values, columns)
        if isinstance(read, str):
            return read
        stratum = values.get(columns["stratum"]) if "stratum" in columns else ""
        return {**read, "stratum": "" if stratum is None else str(stratum)}

    def as_input(self, value: Any) -> dict[str, Any]:
        if isinstance(value, Mapping):
            if other := sorted(set(value) - {"messages", "text"}):
                raise RecipeError(f"a chat is asked a text or messages, and {other[0]} is neither")
            value = value.get("messages", value.get("text"))
        if isinstance(value, str) and self.data.text:
            return {"text": value}
        if isinstance(value, str):
            return {"messages": [{"role": "user", "content": value}]}
        read = read_messages(value)
        if isinstance(read, str):
            raise RecipeError(f"what is to be answered is neither a text nor messages: {read}")
        return {"messages": read}

    def read_input(self, values: Mapping[str, Any], table: Table) -> dict[str, Any] | str:
        columns = self.data.columns_of(table, answered=False)
        return read_conversation(values, columns, answered=False)

    def key(self, row: Row) -> str:
        return _normalized(row.values.get("text") or _said(row, "system", "user", "assistant"))

    def group(self, row: Row) -> str:
        """Conversations in which the same is asked stay together, whatever the answers."""
        return "" if self.data.text else _normalized(_said(row, "user"))

    def stratum(self, row: Row) -> str:
        return str(row.values.get("stratum", ""))

    def encode(self, splits: Splits, tokenizer: Any) -> Encoded:
        from peftkit.data.encoded import Encoded, Head

        notes: list[str] = []
        ends = {tokenizer.eos_token_id} - {None}
        prompts: tuple[Prompt, ...] = ()
        if self.data.text:
            parts = {
                name: self._encode_texts(name, rows, tokenizer, notes)
                for name, rows in splits.named().items()
            }
        else:
            chat_format = self._format(tokenizer)
            ends |= chat_format.end_ids
            parts = {
                name: self._encode_conversations(name, rows, chat_format, notes)
                for name, rows in splits.named().items()
            }
            prompts = self._prompts(splits.test, chat_format)
        generation = {**self.generation.options(), "eos_token_id": sorted(ends)}
        return Encoded(
            **parts,
            head=Head("AutoModelForCausalLM", self.task_type, trained=False, generation=generation),
            pad_token_id=tokenizer.pad_token_id,
            notes=tuple(notes),
            prompts=prompts,
        )

    def encode_inputs(self, rows: Sequence[Row], tokenizer: Any) -> Examples:
        from peftkit.data.encoded import IGNORE_INDEX, Examples

        if self.data.text:
            prompts = [tokenizer(row.values["text"], verbose=False)["input_ids"] for row in rows]
        else:
            chat_format = self._format(tokenizer)
            prompts = self._with_format(
                rows, chat_format, lambda row: chat_format.prompt(self._messages(row))
            )
        room = tokenizer.model_max_length - self.generation.max_new_tokens
        if long := [row.number for row, ids in zip(rows, prompts, strict=True) if len(ids) > room]:
            raise DataError(
                f"row {long[0]} is longer than the {room:,} tokens that the base reads, with "
                f"{self.generation.max_new_tokens} left for the answer ({len(long)} such rows)",
                "shorten it, or lower `task.generation.max_new_tokens`",
            )
        ids = [_int64(prompt) for prompt in prompts]
        return Examples(tuple(rows), ids, [row * 0 + IGNORE_INDEX for row in ids])

    def show(
        self, example: int, examples: Examples, head: Head, tokenizer: Any
    ) -> tuple[Piece, ...]:
        from peftkit.data.encoded import IGNORE_INDEX

        ids, targets = examples.input_ids[example], examples.targets[example]
        supervised = [False, *(targets[:-1] != IGNORE_INDEX).tolist()]
        return tuple(
            Piece(tokenizer.decode([token for token, _ in run], skip_special_tokens=False), learned)
            for learned, run in groupby(zip(ids.tolist(), supervised, strict=True), lambda t: t[1])
        )

    def prompt_code(self) -> str:
        if self.data.text:
            return 'prompt = tokenizer("...", return_tensors="pt")\n'
        system = json.dumps({"role": "system", "content": self.system}, ensure_ascii=False)
        first = f"    {system},\n" if self.system else ""
        return (
            f'messages = [\n{first}    {{"role": "user", "content": "..."}},\n]\n'
            "prompt = tokenizer.apply_chat_template(\n"
            '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True\n)\n'
        )

    def keep(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(targets, 2): loss of each token, and 1 where it was the likeliest."""
        import torch

        losses = torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
        return torch.stack((losses, (outputs.argmax(dim=-1) == targets).float()), dim=1)

    def metrics(self, outputs: Outputs, examples: Examples, head: Head) -> Score:
        from peftkit.metrics.language import language_scores

        sizes = [int((targets >= 0).sum()) for targets in examples.targets]
        values, intervals = language_scores(outputs[:, 0], outputs[:, 1], sizes)
        return Score(values, intervals)

    def _format(self, tokenizer: Any) -> ChatFormat:
        """The base's chat template, tried out.

        Raises:
            DataError: there is none, or it cannot be used for training.
        """
        from peftkit.tasks.chat_format import PROBE, ChatFormat, NotRendered

        try:
            return ChatFormat.of(tokenizer)
        except NotRendered as error:
            raise _template_error(str(error), tokenizer, PROBE) from error

    def _with_format(
        self, rows: Sequence[Row], chat_format: ChatFormat, encode: Callable[[Row], Any]
    ) -> list[Any]:
        """`encode` of each row; what the template cannot render is an error that names the row."""
        from peftkit.tasks.chat_format import NotRendered

        found = []
        for row in rows:
            try:
                found.append(encode(row))
            except NotRendered as error:
                told = f"{error} (row {row.number})"
                raise _template_error(told, chat_format.tokenizer, self._messages(row)) from error
        return found

    def _messages(self, row: Row) -> list[Message]:
        messages: list[Message] = row.values["messages"]
        if self.system and messages[0]["role"] != "system":
            return [{"role": "system", "content": self.system}, *messages]
        return messages

    def _encode_conversations(
        self, split: str, rows: Sequence[Row], chat_format: ChatFormat, notes: list[str]
    ) -> Examples:
        limit = min(self.max_length, chat_format.tokenizer.model_max_length)
        encoded = self._with_format(
            rows, chat_format, lambda row: chat_format.encode(self._messages(row))
        )
        kept: list[tuple[Row, Tokens]] = []
        long: list[Row] = []
        empty: list[Row] = []
        cut = 0
        for row, whole in zip(rows, encoded, strict=True):
            tokens = self._shortened(row, whole, chat_format, limit)
            if tokens is None:
                long.append(row)
            elif not any(tokens.supervised[1:]):
                empty.append(row)
            else:
                kept.append((row, tokens))
                cut += tokens is not whole
        _note_rows(notes, split, empty, f"nothing to learn within {limit:,} tokens, left out")
        _note_rows(notes, split, long, f"more than {limit:,} tokens, left out")
        special = [row for row in rows if _holds_special(row, chat_format.tokenizer)]
        _note_rows(notes, split, special, "the text of a special token, read as that token")
        if not kept:
            raise DataError(
                f"no conversation of the {split} split has anything to learn: {len(long)} of "
                f"{len(rows)} rows are longer than {limit:,} tokens, {len(empty)} have no answer "
                "within them",
                "raise `task.max_length`, or look at the rows with `peftkit check`",
            )
        return _examples(kept, truncated=cut, unsupervised=len(empty), too_long=len(long))

    def _shortened(
        self, row: Row, tokens: Tokens, chat_format: ChatFormat, limit: int
    ) -> Tokens | None:
        """The conversation within the limit, as `over_long` says; None to leave it out."""
        from peftkit.tasks.chat_format import Tokens

        if len(tokens.input_ids) <= limit:
            return tokens
        if self.over_long == "cut_end":
            return Tokens(tokens.input_ids[:limit], tokens.supervised[:limit])
        messages = self._messages(row)
        while self.over_long == "drop_turns" and (messages := _without_oldest(messages)):
            shorter = chat_format.encode(messages)
            if len(shorter.input_ids) <= limit:
                return shorter
        return None

    def _encode_texts(
        self, split: str, rows: Sequence[Row], tokenizer: Any, notes: list[str]
    ) -> Examples:
        """Plain texts, ended by the end-of-text token, in pieces of at most `max_length` tokens."""
        from peftkit.tasks.chat_format import Tokens

        limit = min(self.max_length, tokenizer.model_max_length)
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        kept: list[tuple[Row, Tokens]] = []
        for row in rows:
            ids = tokenizer(row.values["text"], verbose=False)["input_ids"]
            ids = ids if ids[-1:] == end else ids + end
            for start in range(0, max(len(ids) - 1, 1), limit):
                piece = ids[start : start + limit]
                kept.append((row, Tokens(piece, [True] * len(piece))))
        if len(kept) > len(rows):
            notes.append(
                f"{len(rows):,} texts of the {split} split became {len(kept):,} pieces of at most "
                f"{limit:,} tokens"
            )
        return _examples([(row, tokens) for row, tokens in kept if len(tokens.input_ids) > 1])

    def _prompts(self, rows: Sequence[Row], chat_format: ChatFormat) -> tuple[Prompt, ...]:
        """First questions of test conversations, evenly spread over the split."""
        import numpy as np

        from peftkit.data.encoded import Prompt

        room = chat_format.tokenizer.model_max_length - self.generation.max_new_tokens
        places = np.linspace(0, len(rows) - 1, min(self.samples, len(rows))).round().astype(int)
        prompts = []
        for row in (rows[place] for place in dict.fromkeys(places.tolist())):
            messages = self._messages(row)
            answers = [turn for turn, m in enumerate(messages) if m["role"] == "assistant"]
            asked = messages[: answers[0]] if answers else messages
            ids = _int64(chat_format.prompt(asked))
            expected = messages[answers[0]]["content"] if answers else ""
            text = "\n".join(m["content"] for m in asked if m["role"] == "user")
            if len(ids) <= room:
                prompts.append(Prompt(row.number, text, expected, ids))
        return tuple(prompts)


def _examples(
    kept: Sequence[tuple[Row, Tokens]], truncated: int = 0, unsupervised: int = 0, too_long: int = 0
) -> Examples:
    """Targets stand at the position whose output predicts them, one before the token itself."""
    from peftkit.data.encoded import IGNORE_INDEX, Examples

    targets = [
        [
            token if learned else IGNORE_INDEX
            for token, learned in zip(tokens.input_ids[1:], tokens.supervised[1:], strict=True)
        ]
        for _, tokens in kept
    ]
    return Examples(
        rows=tuple(row for row, _ in kept),
        input_ids=[_int64(tokens.input_ids) for _, tokens in kept],
        targets=[_int64([*row, IGNORE_INDEX]) for row in targets],
        truncated=truncated,
        unsupervised=unsupervised,
        too_long=too_long,
    )


def _int64(values: Sequence[int]) -> Any:
    import numpy as np

    return np.array(values, np.int64)


def _normalized(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _said(row: Row, *roles: str) -> str:
    return "\x1f".join(m["content"] for m in row.values["messages"] if m["role"] in roles)


def _without_oldest(messages: list[Message]) -> list[Message]:
    """The messages without the first question and its answer; empty if nothing would be left."""
    roles = [message["role"] for message in messages]
    again = [turn for turn in range(1, len(roles)) if roles[turn - 1 : turn + 1] == ANSWERED]
    system = messages[: roles.index("user")]
    return [*system, *messages[again[0] :]] if again else []


def _holds_special(row: Row, tokenizer: Any) -> bool:
    special = [str(t) for t in tokenizer.added_tokens_decoder.values() if t.special]
    return any(token in m["content"] for m in row.values["messages"] for token in special)


def _note_rows(notes: list[str], split: str, rows: Sequence[Row], what: str) -> None:
    if rows:
        numbers = ", ".join(str(row.number) for row in rows[:SHOWN_ROWS])
        more = ", ..." if len(rows) > SHOWN_ROWS else ""
        plural = "s" if len(rows) > 1 else ""
        notes.append(f"{split}: {len(rows)} row{plural} with {what} (row{plural} {numbers}{more})")


def _template_error(reason: str, tokenizer: Any, messages: Sequence[Message]) -> DataError:
    """An error that names the template and one that would do."""
    from peftkit.tasks.chat_format import template_for

    name = f"the chat template of `{tokenizer.name_or_path}`"
    fits = template_for(tokenizer, messages)
    return DataError(
        f"{name} cannot be used: {reason}",
        f"`--base.chat-template {fits}` fits this tokenizer and these messages"
        if fits
        else "write one as a .jinja file and name it as `base.chat_template`",
    )
