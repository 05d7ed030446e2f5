"""What tasks share that write a text for each row.

    loss = - sum log p(token | what was read, all tokens before it)     over the target's tokens

An encoder-decoder reads a text and writes the target (Sutskever et al. 2014, arXiv:1409.3215). A
causal base is given an instruction in its chat template and writes the target as the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from peftkit.data.rows import check_columns
from peftkit.errors import RecipeError, quoted
from peftkit.metrics.metric import Metric
from peftkit.tasks.answers import Decision
from peftkit.tasks.generation import Generation
from peftkit.tasks.reading.written_pairs import pair_key, read_texts
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
    from peftkit.tasks.encoding.two_streams import Streams
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
    source_language: str = ""
    """For bases with a token for each language, such as mBART and NLLB: the base's code for the
    language of the texts, such as `en_XX` or `eng_Latn`."""
    target_language: str = ""
    """The base's code for the language to write; see `source_language`."""
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
        names = list(self.read.values())
        values = value if isinstance(value, Mapping) else {names[0]: value}
        read = read_texts(values, {name: name for name in names})
        if isinstance(read, str):
            raise RecipeError(f"the input: {read}", f"give {quoted(names)}")
        return read

    def read_input(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        wanted = {name: self.columns[name] for name in self.read.values()}
        check_columns(table, wanted)
        return read_texts(values, wanted)

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
        from peftkit.tasks.encoding.two_streams import encode_pairs, stream_prompts

        if self.instruction:
            raise RecipeError(
                f"`{base.name}` is an encoder-decoder, which reads no `task.instruction`",
                "give the words that the base was trained with as `task.prefix`",
            )
        streams = self._streams(base)
        train, validation, test = (
            encode_pairs(
                rows, list(map(self._encoder_text, rows)),
                [row.values["targets"][0] for row in rows], base.tokenizer, self._lengths, streams,
            )
            for rows in splits.named().values()
        )  # fmt: skip
        written = {**self.generation.options(), **streams.generation()}
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
        from peftkit.tasks.encoding.instructed import encode_instructed, longest

        check_continues(base)
        for field in ("prefix", "source_language", "target_language"):
            if getattr(self, field):
                raise RecipeError(
                    f"`{base.name}` is a causal language model, which reads no `task.{field}`",
                    "say in `task.instruction` what to write",
                )
        learned = [row.values["targets"][0] for part in splits.named().values() for row in part]
        instruction = self._instruction(base, longest(learned, base.tokenizer))
        counts = (0, self.validation_samples, self.samples)
        train, validation, test = (
            encode_instructed(split, rows, list(map(self.texts, rows)), instruction, count)
            for (split, rows), count in zip(splits.named().items(), counts, strict=True)
        )
        tokenizer = base.tokenizer
        ends = instruction.chat_format.end_ids | ({tokenizer.eos_token_id} - {None})
        written = {**self.generation.options(), "eos_token_id": sorted(ends)}
        return Encoded(
            train.examples,
            validation.examples,
            test.examples,
            Head("AutoModelForCausalLM", "CAUSAL_LM", trained=False, generation=written),
            tokenizer.pad_token_id,
            (*train.notes, *validation.notes, *test.notes),
            prompts=test.prompts,
            validation_prompts=validation.prompts,
        )

    def _streams(self, base: OpenedBase) -> Streams:
        from peftkit.tasks.encoding.language_codes import Languages
        from peftkit.tasks.encoding.two_streams import Streams

        return Streams.of(base, Languages(self.source_language, self.target_language))

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

        reserved = max(self.generation.max_new_tokens, min(needed, self._lengths[1]))
        cut = next(iter(self.read))
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
        self._streams(base)  # sets the languages
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
        from peftkit.tasks.encoding.prompt_code import chat_code, encoder_code

        blanks = dict.fromkeys(self.read, "...")
        if head.goes_on:
            return chat_code(filled(self.wording, blanks))
        return encoder_code(self.prefix + filled(self.encoder_wording, blanks))

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
