"""Chat: the model learns the assistant's turns of conversations, or plain texts as a whole.

    loss = - sum log p(token | all before it)    over the tokens of answers and their end tokens

Instruction tuning (Wei et al. 2021, arXiv:2109.01652) with the loss on answers only, and continued
pre-training (Gururangan et al. 2020, arXiv:2004.10964) for rows of plain text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from peftkit.data.rows import Row, is_missing
from peftkit.errors import DataError, RecipeError
from peftkit.metrics.metric import Metric
from peftkit.tasks.answers import Decision
from peftkit.tasks.generation import Generation
from peftkit.tasks.reading.chat_columns import OFFER
from peftkit.tasks.reading.conversation_remarks import system_remarks, unread_remarks
from peftkit.tasks.reading.conversation_rows import read_conversation
from peftkit.tasks.reading.conversations import Conversations
from peftkit.tasks.reading.messages import message_key, read_messages, unanswered
from peftkit.tasks.reading.single_message import Message
from peftkit.tasks.reading.text_keys import text_key
from peftkit.tasks.score import Score
from peftkit.tasks.task import Piece, Task
from peftkit.tasks.writing import Writing

if TYPE_CHECKING:
    import torch

    from peftkit.bases.opened import OpenedBase
    from peftkit.data.encoded import Encoded, Examples, Prompt
    from peftkit.data.head import Head
    from peftkit.data.rows import Table
    from peftkit.data.splits import Splits
    from peftkit.tasks.task import Outputs

LEAST_PROMPT = 8
"""Fewest prompt tokens that the base must have room for besides the longest answer."""


class Chat(Task):
    """The task of answering in conversations with a causal language model."""

    task_type: ClassVar[str] = "CAUSAL_LM"
    goes_on: ClassVar[bool] = True
    offer = OFFER
    scores: ClassVar[tuple[str, ...]] = ("loss", "token_accuracy")

    data: Conversations
    """The conversations. White space around system messages and the assistant's turns is
    removed."""
    system: str = ""
    """System message to add to conversations without one; empty to add none. If all training
    conversations have the same system message, the run records it for answering."""
    max_length: int = Field(default=1024, ge=8)
    """Most tokens of a conversation; the base may allow less."""
    over_long: Literal["cut_end", "drop_turns", "drop"] = "cut_end"
    """What to do with conversations of more than `max_length` tokens: cut them at the end, drop
    their oldest turns until they fit, or drop the rows. Plain text is split into pieces instead."""
    samples: int = Field(default=3, ge=0)
    """Number of test conversations whose first question the model answers before and after
    training; if there are 20 or more, ROUGE-L scores the answers."""
    validation_samples: int = Field(default=50, ge=1)
    """Number of validation conversations whose first question the model answers at each
    validation, if `training.metric` is `rouge_l`; `split_seed` selects them."""
    generation: Generation = Generation()
    """How the model writes its answers in samples, `peftkit chat` and `peftkit predict`."""

    @property
    def writing(self) -> Writing | None:
        if self.data.text:
            return None
        return Writing(("rouge_l",), self.samples, self.validation_samples)

    def metric(self, name: str) -> Metric:
        from peftkit.metrics.language import METRICS
        from peftkit.metrics.rouge import ROUGE

        return {**METRICS, **ROUGE}.get(name) or super().metric(name)

    @property
    def command(self) -> Literal["predict", "chat"]:
        return "predict" if self.data.text else "chat"

    @classmethod
    def of_published(cls, task_type: str, path: str) -> Task | None:
        return cls(data=Conversations(path=path)) if task_type == cls.task_type else None

    @property
    def source(self) -> Conversations:
        return self.data

    @property
    def columns(self) -> Mapping[str, str]:
        return self.data.named_columns()

    def read_row(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        layout = self.data.layout(table)
        read = read_conversation(values, layout)
        if isinstance(read, str):
            return read
        stratum = values.get(self.data.stratum) if self.data.stratum else ""
        try:
            return {**read, "stratum": "" if is_missing(stratum) else str(stratum)}
        except RecursionError:
            return f"{self.data.stratum} is nested too deeply"

    def as_input(self, value: Any) -> dict[str, object]:
        if isinstance(value, Mapping):
            if other := sorted(set(value) - {"messages", "text"}):
                raise RecipeError(
                    f"a chat takes `text` or `messages`; `{other[0]}` is neither",
                    "leave it out",
                )
            value = value.get("messages", value.get("text"))
        if isinstance(value, str):
            question = [{"role": "user", "content": value}]
            return {"text": value} if self.data.text else {"messages": question}
        if self.data.text:
            raise RecipeError(
                "the model learned plain text; it continues a text and takes no messages",
                '`peftkit predict RUN --text "..."`',
            )
        read = read_messages(value)
        if isinstance(read, str):
            raise RecipeError(
                f"the input is neither a text nor messages: {read}",
                'give a text, or a list such as `[{"role": "user", "content": "..."}]`',
            )
        return {"messages": unanswered(read)}

    def read_input(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        layout = self.data.layout(table, answered=False)
        read = read_conversation(values, layout, answered=False)
        if isinstance(read, str):
            return read
        return {key: read[key] for key in ("messages", "text") if key in read}

    def key(self, row: Row) -> str:
        content = row.values.get("text") or message_key(row.values["messages"])
        return f"{self.stratum(row)}\x1f{text_key(content)}"

    def group(self, row: Row) -> str:
        """A key of the first question. Conversations with the same first question stay in one
        split, because one may be the beginning of another.
        """
        if self.data.text:
            return ""
        end = [m["role"] for m in row.values["messages"]].index("user") + 1
        return text_key("\x1f".join(m["content"] for m in row.values["messages"][:end]))

    def stratum(self, row: Row) -> str:
        return str(row.values.get("stratum", ""))

    @property
    def stratum_column(self) -> str:
        return self.data.stratum

    def columns_read(self, table: Table) -> Collection[str]:
        return self.data.layout(table).read

    def remarks(self, splits: Splits) -> Iterator[str]:
        yield from unread_remarks([row for part in splits.named().values() for row in part])
        yield from system_remarks(Counter(self._system_of(row) for row in splits.train))

    def remembering(self, splits: Splits) -> Chat:
        systems = {self._system_of(row) for row in splits.train}
        return self.with_(system=systems.pop()) if len(systems) == 1 else self

    def _system_of(self, row: Row) -> str:
        """The system message that a row is trained with; empty if there is none."""
        [(_, messages)] = self._talks([row]) if "messages" in row.values else [(row, [])]
        first: Mapping[str, object] = messages[0] if messages else {}
        return str(first["content"]) if first.get("role") == "system" else ""

    @property
    def system_prompt(self) -> str:
        return self.system

    def asked_with(self, system: str) -> Self:
        return self.with_(system=system)

    def encode(self, splits: Splits, base: OpenedBase) -> Encoded:
        from peftkit.data.encoded import Encoded
        from peftkit.data.head import Head
        from peftkit.tasks.encoding import chat_encoding as encoding

        tokenizer = base.tokenizer
        if self._room(tokenizer) < LEAST_PROMPT:
            raise DataError(
                f"`task.generation.max_new_tokens` is {self.generation.max_new_tokens:,}, but the "
                f"base reads {tokenizer.model_max_length:,} tokens, prompt and answer together",
                "lower it",
            )
        limit = min(self.max_length, tokenizer.model_max_length)
        ends = {tokenizer.eos_token_id} - {None}
        prompts: list[tuple[Prompt, ...]] = [(), ()]
        if self.data.text:
            encoded = [
                encoding.encode_texts(name, rows, tokenizer, limit)
                for name, rows in splits.named().items()
            ]
        else:
            chat_format = encoding.open_format(tokenizer)
            ends |= chat_format.end_ids
            talks = {name: self._talks(rows) for name, rows in splits.named().items()}
            encoded = [
                encoding.encode_conversations(name, of_split, chat_format, limit, self.over_long)
                for name, of_split in talks.items()
            ]
            room, counts = self._room(tokenizer), (self.validation_samples, self.samples)
            for place, (name, count) in enumerate(zip(("validation", "test"), counts, strict=True)):
                numbers = {row.number for row in encoded[place + 1][0].rows}
                kept = [talk for talk in talks[name] if talk[0].number in numbers]
                prompts[place], missing = encoding.first_questions(kept, chat_format, count, room)
            encoded[2][1].extend(missing)
        (train, _), (validation, _), (test, _) = encoded
        generation = {**self.generation.options(), "eos_token_id": sorted(ends)}
        return Encoded(
            train,
            validation,
            test,
            head=Head("AutoModelForCausalLM", self.task_type, trained=False, generation=generation),
            pad_token_id=tokenizer.pad_token_id,
            notes=tuple(note for _, notes in encoded for note in notes),
            prompts=prompts[1],
            validation_prompts=prompts[0],
        )

    def encode_inputs(self, rows: Sequence[Row], base: OpenedBase, head: Head) -> Examples:
        from peftkit.tasks.encoding import chat_encoding as encoding
        from peftkit.tasks.encoding.prompts import prompt_examples

        tokenizer = base.tokenizer
        if self.data.text:
            prompts = [tokenizer(row.values["text"], verbose=False)["input_ids"] for row in rows]
        else:
            chat_format = encoding.open_format(tokenizer)
            prompts = encoding.render_each(self._talks(rows), chat_format, chat_format.prompt)
        room = self._room(tokenizer)
        return prompt_examples(rows, prompts, room, self.generation.max_new_tokens)

    def show(
        self, example: int, examples: Examples, head: Head, tokenizer: Any
    ) -> tuple[Piece, ...]:
        from peftkit.tasks.encoding.learned_tokens import learned_pieces

        return learned_pieces(example, examples, tokenizer)

    def prompt_code(self, head: Head) -> str:
        if self.data.text:
            return 'prompt = tokenizer("...", return_tensors="pt")\n'
        system = json.dumps({"role": "system", "content": self.system}, ensure_ascii=False)
        first = f"    {system},\n" if self.system else ""
        return (
            f'messages = [\n{first}    {{"role": "user", "content": "..."}},\n]\n'
            "prompt = tokenizer.apply_chat_template(\n"
            '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True\n)\n'
        )

    def reduce_outputs(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Reduces logits to (outputs, 2): the loss of each expected token, and 1 if the token was
        the most likely one, else 0.
        """
        from peftkit.tasks.losses import loss_and_hit

        return loss_and_hit(outputs, targets)

    def metrics(self, kept: Outputs, examples: Examples, head: Head, decision: Decision) -> Score:
        from peftkit.tasks.scoring.token_scores import token_score

        return token_score(self.metric, kept, examples)

    def _talks(self, rows: Sequence[Row]) -> list[tuple[Row, list[Message]]]:
        """Pairs each row with its messages; adds the recipe's system message if there is none."""
        talks = []
        for row in rows:
            messages: list[Message] = row.values["messages"]
            if (system := self.system.strip()) and messages[0]["role"] != "system":
                messages = [{"role": "system", "content": system}, *messages]
            talks.append((row, messages))
        return talks

    def _room(self, tokenizer: Any) -> int:
        """Largest number of prompt tokens that leaves room for the longest answer."""
        return int(tokenizer.model_max_length) - self.generation.max_new_tokens
