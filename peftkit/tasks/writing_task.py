"""What tasks share that write a text for each row.

    loss = - sum log p(token | what was read, all tokens before it)     over the target's tokens

An encoder-decoder reads a text and writes the target (Sutskever et al. 2014, arXiv:1409.3215). A
causal base is given an instruction in its chat template and writes the target as the answer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from peftkit.data.rows import check_columns
from peftkit.errors import RecipeError, quoted
from peftkit.metrics.metric import Metric
from peftkit.tasks.answers import Decision
from peftkit.tasks.generation import Generation
from peftkit.tasks.reading.written_pairs import pair_key, wrong_text
from peftkit.tasks.score import Score
from peftkit.tasks.task import Piece, Task
from peftkit.tasks.writing import Writing

if TYPE_CHECKING:
    import torch

    from peftkit.bases.opened import OpenedBase
    from peftkit.data.encoded import Encoded, Examples
    from peftkit.data.head import Head
    from peftkit.data.rows import Row, Table
    from peftkit.data.splits import Splits
    from peftkit.tasks.encoding.instructed import Instruction
    from peftkit.tasks.task import Outputs


WRITTEN_SCORES = ("length_ratio", "empty", "repeating", "copied")
"""Names of the metrics that are of use for all tasks that write."""


class WritingTask(Task):
    """A task of writing a text for each row. Rows have `targets`, the right texts, of which the
    first one is learned.
    """

    task_type: ClassVar[str] = ""  # the base decides
    scores: ClassVar[tuple[str, ...]] = ("loss", "token_accuracy")
    default_instruction: ClassVar[str] = "{source}"
    """The instruction if the recipe gives none."""

    prefix: str = ""
    """For encoder-decoders: text to put before each text, if the base was trained with one
    (`translate English to German: `)."""
    instruction: str = ""
    """For causal bases: what the user says, with `{source}` where the text stands; name the
    language to write, for example. If empty, the task has one of its own."""
    max_length: int = Field(default=256, ge=4)
    """Most tokens of a text; longer ones are cut at the end, and the record counts them. The base
    may allow less."""
    max_target_length: int | None = Field(default=None, ge=4)
    """Most tokens of a target in training, cut likewise; `max_length` if not given."""
    samples: int = Field(default=20, ge=0)
    """Number of test texts for which the model writes before and after training, and which the
    metrics of written texts score."""
    validation_samples: int = Field(default=50, ge=1)
    """Number of validation texts for which the model writes at each validation, if
    `training.metric` is a metric of written texts; `split_seed` selects them."""
    generation: Generation = Generation()
    """How the model writes."""

    @property
    def read(self) -> Mapping[str, str]:
        """Name of each place in an instruction -> the value of a row that stands there. The text of
        the first place is cut if it is too long.
        """
        return {"source": "text"}

    @property
    def wording(self) -> str:
        """What a causal base is asked, with places for the texts."""
        return self.instruction or self.default_instruction

    @property
    def encoder_wording(self) -> str:
        """What an encoder reads after `prefix`."""
        return "{source}"

    @model_validator(mode="after")
    def _check_places(self) -> Self:
        lacking = [f"{{{name}}}" for name in self.read if f"{{{name}}}" not in self.wording]
        if lacking:
            raise ValueError(
                f"`instruction` has no place {quoted(lacking)}, so the model would not read it"
            )
        return self

    # Rows

    def as_input(self, value: Any) -> dict[str, object]:
        values = value if isinstance(value, Mapping) else {next(iter(self.read.values())): value}
        for name in self.read.values():
            if wrong := wrong_text(values.get(name), f"`{name}` of the input"):
                raise RecipeError(wrong, f"give {quoted(self.read.values())}")
        return {name: str(values[name]).strip() for name in self.read.values()}

    def read_input(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        wanted = {name: self.columns[name] for name in self.read.values()}
        check_columns(table, wanted)
        for column in wanted.values():
            if wrong := wrong_text(values.get(column), column):
                return wrong
        return {name: str(values[column]).strip() for name, column in wanted.items()}

    def key(self, row: Row) -> str:
        return pair_key(row)

    def stratum(self, row: Row) -> str:
        return ""

    def remarks(self, splits: Splits) -> Iterator[str]:
        rows = [row for part in splits.named().values() for row in part]
        counts = Counter(
            row.values[next(iter(self.read.values()))] == row.values["targets"][0] for row in rows
        )
        if counts[True]:
            yield f"{counts[True]:,} of {len(rows):,} rows have a target that equals the text"

    # Encoding

    def texts(self, row: Row) -> dict[str, str]:
        """Name of each place in the instruction -> the row's text for it."""
        return {place: str(row.values[name]) for place, name in self.read.items()}

    def encode(self, splits: Splits, base: OpenedBase) -> Encoded:
        if getattr(base.config, "is_encoder_decoder", False):
            return self._encode_two_streams(splits, base)
        return self._encode_instructed(splits, base)

    def _encode_two_streams(self, splits: Splits, base: OpenedBase) -> Encoded:
        from peftkit.data.encoded import Encoded
        from peftkit.data.head import Head
        from peftkit.tasks.encoding.two_streams import decoder_ends, encode_pairs, stream_prompts

        if self.instruction:
            raise RecipeError(
                f"`{base.name}` is an encoder-decoder, which reads no `task.instruction`",
                "give the words that the base was trained with as `task.prefix`",
            )
        start, ends = decoder_ends(base)
        train, validation, test = (
            encode_pairs(
                rows, list(map(self._encoder_text, rows)),
                [row.values["targets"][0] for row in rows], base.tokenizer, self._lengths, start,
                ends[0],
            )
            for rows in splits.named().values()
        )  # fmt: skip
        tokens = {"eos_token_id": ends, "decoder_start_token_id": start}
        written = {**self.generation.options(), **tokens}
        name = next(iter(self.read.values()))
        return Encoded(
            train,
            validation,
            test,
            Head("AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM", trained=False, generation=written),
            base.tokenizer.pad_token_id,
            prompts=stream_prompts(test, self.samples, name),
            validation_prompts=stream_prompts(validation, self.validation_samples, name),
        )

    def _encode_instructed(self, splits: Splits, base: OpenedBase) -> Encoded:
        from peftkit.bases.architectures import check_continues
        from peftkit.data.encoded import Encoded
        from peftkit.data.head import Head
        from peftkit.tasks.encoding.instructed import (
            encode_instructed,
            instructed_prompts,
            longest,
        )

        check_continues(base)
        if self.prefix:
            raise RecipeError(
                f"`{base.name}` is a causal language model, which reads no `task.prefix`",
                "say in `task.instruction` what to write",
            )
        learned = [row.values["targets"][0] for part in splits.named().values() for row in part]
        needed = min(longest(learned, base.tokenizer), self._lengths[1])
        instruction = self._instruction(base, needed)
        encoded, prompts, notes = {}, {}, list[str]()
        counts = {"train": 0, "validation": self.validation_samples, "test": self.samples}
        for split, rows in splits.named().items():
            texts = list(map(self.texts, rows))
            targets: list[tuple[str, ...]] = [row.values["targets"] for row in rows]
            some = counts[split]
            examples, told = encode_instructed(
                split, rows, texts, [target[0] for target in targets], instruction
            )
            encoded[split] = examples
            notes += told
            prompts[split] = instructed_prompts(
                rows[:some], texts[:some], targets[:some], instruction
            )
        tokenizer = base.tokenizer
        ends = instruction.chat_format.end_ids | ({tokenizer.eos_token_id} - {None})
        written = {**self.generation.options(), "eos_token_id": sorted(ends)}
        return Encoded(
            encoded["train"],
            encoded["validation"],
            encoded["test"],
            Head("AutoModelForCausalLM", "CAUSAL_LM", trained=False, generation=written),
            tokenizer.pad_token_id,
            tuple(notes),
            prompts=prompts["test"],
            validation_prompts=prompts["validation"],
        )

    @property
    def _lengths(self) -> tuple[int, int]:
        """Most tokens of a text, and of a target."""
        return self.max_length, self.max_target_length or self.max_length

    def _instruction(self, base: OpenedBase, needed: int = 0) -> Instruction:
        """How the base is asked.

        Args:
            needed: number of tokens of the longest target that is learned.
        """
        from peftkit.tasks.encoding.instructed import Instruction

        reserved, cut = max(self.generation.max_new_tokens, needed), next(iter(self.read))
        return Instruction.of(base, self.wording, cut, self._lengths, reserved)

    def _encoder_text(self, row: Row) -> str:
        from peftkit.tasks.encoding.instructed import filled

        return self.prefix + filled(self.encoder_wording, self.texts(row))

    def encode_inputs(self, rows: Sequence[Row], base: OpenedBase, head: Head) -> Examples:
        from peftkit.tasks.encoding.prompts import prompt_examples

        room = int(base.tokenizer.model_max_length)
        if head.goes_on:
            instruction = self._instruction(base)
            instruction.refuse_long(rows, list(map(self.texts, rows)))
            prompts = [instruction.prompt(row, self.texts(row)) for row in rows]
            return prompt_examples(rows, prompts, room, self.generation.max_new_tokens)
        texts = list(map(self._encoder_text, rows))
        read = base.tokenizer(texts, verbose=False)["input_ids"]
        return prompt_examples(rows, read, min(self.max_length, room))

    def show(
        self, example: int, examples: Examples, head: Head, tokenizer: Any
    ) -> tuple[Piece, ...]:
        if head.goes_on:
            from peftkit.tasks.encoding.learned_tokens import learned_pieces

            return learned_pieces(example, examples, tokenizer)
        read = tokenizer.decode(examples.input_ids[example])
        written = tokenizer.decode(examples.targets[examples.outputs_of(example)])
        return Piece(f"{read}\n-> "), Piece(written, supervised=True)

    def prompt_code(self, head: Head) -> str:
        from peftkit.tasks.encoding.instructed import filled

        blanks = dict.fromkeys(self.read, "...")
        if head.goes_on:
            said = json.dumps(filled(self.wording, blanks), ensure_ascii=False)
            return (
                f'messages = [{{"role": "user", "content": {said}}}]\n'
                "prompt = tokenizer.apply_chat_template(\n    messages, "
                'add_generation_prompt=True, return_tensors="pt", return_dict=True\n)\n'
            )
        text = json.dumps(self.prefix + filled(self.encoder_wording, blanks), ensure_ascii=False)
        return f'prompt = tokenizer({text}, return_tensors="pt")\n'

    # Scores

    @property
    def text_scores(self) -> tuple[str, ...]:
        """Names of the metrics of written texts."""
        return tuple(WRITTEN_SCORES)

    @property
    def writing(self) -> Writing:
        return Writing(self.text_scores, self.samples, self.validation_samples)

    def metric(self, name: str) -> Metric:
        from peftkit.metrics.language import METRICS
        from peftkit.metrics.written_texts import WRITTEN

        return {**METRICS, **WRITTEN}.get(name) or super().metric(name)

    def reduce_outputs(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Reduces logits to (outputs, 2): the loss of each expected token, and 1 if the token was
        the most likely one, else 0.
        """
        from peftkit.tasks.losses import loss_and_hit

        return loss_and_hit(outputs, targets)

    def metrics(self, kept: Outputs, examples: Examples, head: Head, decision: Decision) -> Score:
        from peftkit.tasks.scoring.token_scores import token_score

        return token_score(self.metric, kept, examples)
