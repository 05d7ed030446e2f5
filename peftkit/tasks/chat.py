"""Chat: conversations, of which the assistant's turns are learned; or plain text, all of it.

    loss = - sum log p(token | all before it)    over the tokens of answers and of their ends

Instruction tuning (Wei et al. 2021, arXiv:2109.01652) with the loss on answers only, and continued
pre-training (Gururangan et al. 2020, arXiv:2004.10964) for rows of plain text.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
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
    from peftkit.tasks.task import Outputs


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
        from peftkit.tasks import chat_encoding as encoding

        limit = min(self.max_length, tokenizer.model_max_length)
        ends = {tokenizer.eos_token_id} - {None}
        prompts: tuple[Prompt, ...] = ()
        if self.data.text:
            found = [
                encoding.encode_texts(name, rows, tokenizer, limit)
                for name, rows in splits.named().items()
            ]
        else:
            chat_format = encoding.open_format(tokenizer)
            ends |= chat_format.end_ids
            talks = {name: self._talks(rows) for name, rows in splits.named().items()}
            found = [
                encoding.encode_conversations(name, those, chat_format, limit, self.over_long)
                for name, those in talks.items()
            ]
            prompts = encoding.first_questions(
                talks["test"], chat_format, self.samples, self._room(tokenizer)
            )
        (train, _), (validation, _), (test, _) = found
        generation = {**self.generation.options(), "eos_token_id": sorted(ends)}
        return Encoded(
            train,
            validation,
            test,
            head=Head("AutoModelForCausalLM", self.task_type, trained=False, generation=generation),
            pad_token_id=tokenizer.pad_token_id,
            notes=tuple(note for _, notes in found for note in notes),
            prompts=prompts,
        )

    def encode_inputs(self, rows: Sequence[Row], tokenizer: Any) -> Examples:
        from peftkit.data.encoded import IGNORE_INDEX, Examples
        from peftkit.tasks import chat_encoding as encoding

        if self.data.text:
            prompts = [tokenizer(row.values["text"], verbose=False)["input_ids"] for row in rows]
        else:
            chat_format = encoding.open_format(tokenizer)
            prompts = encoding.rendered(self._talks(rows), chat_format, chat_format.prompt)
        room = self._room(tokenizer)
        if long := [row.number for row, ids in zip(rows, prompts, strict=True) if len(ids) > room]:
            raise DataError(
                f"row {long[0]} is longer than the {room:,} tokens that the base reads, with "
                f"{self.generation.max_new_tokens} left for the answer ({len(long)} such rows)",
                "shorten it, or lower `task.generation.max_new_tokens`",
            )
        ids = [encoding.int64(prompt) for prompt in prompts]
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

    def _talks(self, rows: Sequence[Row]) -> list[tuple[Row, list[Message]]]:
        """The rows with their messages, the recipe's system message before those without one."""
        talks = []
        for row in rows:
            messages: list[Message] = row.values["messages"]
            if self.system and messages[0]["role"] != "system":
                messages = [{"role": "system", "content": self.system}, *messages]
            talks.append((row, messages))
        return talks

    def _room(self, tokenizer: Any) -> int:
        """Tokens that a prompt may have, so that an answer still fits after it."""
        return int(tokenizer.model_max_length) - self.generation.max_new_tokens


def _normalized(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _said(row: Row, *roles: str) -> str:
    return "\x1f".join(m["content"] for m in row.values["messages"] if m["role"] in roles)
