"""Encodes pairs of texts for an encoder-decoder: the encoder's text and the decoder's target.

The decoder reads its start token and then the target without its last token. At place i it predicts
the target's token i. mBART has no start token: what ends a target, the language, begins it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftkit.bases.opened import OpenedBase
from peftkit.data.encoded import Examples, Prompt
from peftkit.data.ragged import Ragged
from peftkit.data.rows import Row
from peftkit.errors import BaseModelError
from peftkit.tasks.encoding.language_codes import Languages, language_ids

FORCED = "forced_bos_token_id"
"""Setting of the token that the model must write first."""
WRAPPING = ("mbart", "plbart")
"""Model types whose decoder begins with the target's last token."""


@dataclass(frozen=True)
class Streams:
    """How an encoder-decoder begins and ends what it writes."""

    start: int
    """The token that the decoder begins with when it writes."""
    ends: tuple[int, ...]
    """The tokens that end a text; targets have the first of them."""
    wraps: bool
    """Whether the decoder begins with the last token of the target in training."""
    forced: int | None = None
    """The token that the model must write first, such as that of the language; None if there is
    none."""

    @classmethod
    def of(cls, base: OpenedBase, languages: Languages) -> Streams:
        """Reads the settings of a base, and sets the languages of its tokenizer.

        Raises:
            BaseModelError: the base's files name no start or end token.
            RecipeError: the languages are missing, unknown, or of no use for the base.
        """
        written = language_ids(base, languages)
        wraps = base.config.model_type in WRAPPING
        ends = [base.tokenizer.eos_token_id] if base.tokenizer.eos_token_id is not None else []
        ends = list(dict.fromkeys(ends + _known(base, "eos_token_id")))
        starts = _known(base, "decoder_start_token_id") or _known(base, "bos_token_id")
        forced = written if written is not None else next(iter(_known(base, FORCED)), None)
        if wraps and written is not None and _ends_with_language(base):
            starts, forced = [written], None
        if not starts or not ends:
            missing = "decoder_start_token_id" if not starts else "eos_token_id"
            raise BaseModelError(
                f"neither config.json nor generation_config.json of `{base.name}` names "
                f"`{missing}`",
                "write it into one of them, or choose another base",
            )
        return cls(int(starts[0]), tuple(ends), wraps, forced)

    def decoder_inputs(self, target: Sequence[int]) -> list[int]:
        """What the decoder reads in training: the target, one place later."""
        return [target[-1] if self.wraps else self.start, *target[:-1]]

    def ended(self, target: Sequence[int], limit: int) -> list[int]:
        """Returns a target with an end token, so that the model learns to stop."""
        if any(end in target for end in self.ends):
            return list(target)
        return [*target[: limit - 1], self.ends[0]]

    def generation(self) -> dict[str, object]:
        """Settings of transformers' `generate`."""
        forced = {} if self.forced is None else {FORCED: self.forced}
        return {
            "eos_token_id": list(self.ends), "decoder_start_token_id": self.start, **forced
        }  # fmt: skip


def _known(base: OpenedBase, name: str) -> list[int]:
    """The values of a setting in config.json and generation_config.json."""
    found = [getattr(where, name, None) for where in (base.config, generation_settings(base))]
    return [n for value in found for n in (value if isinstance(value, list) else [value])
            if n is not None]  # fmt: skip


def _ends_with_language(base: OpenedBase) -> bool:
    """Whether the tokenizer writes a target's language after its end, as mBART-25 does."""
    ids: list[int] = base.tokenizer(text_target="a")["input_ids"]
    end: int = base.tokenizer.eos_token_id
    return ids[-1] != end


def generation_settings(base: OpenedBase) -> Any:
    """Reads a base's generation_config.json as transformers' `GenerationConfig`; if the file is
    missing, returns an empty one.
    """
    from transformers import GenerationConfig

    if (base.folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(str(base.folder))
    return GenerationConfig()  # type: ignore[no-untyped-call]


def encode_pairs(
    rows: Sequence[Row],
    texts: Sequence[str],
    targets: Sequence[str],
    tokenizer: Any,
    lengths: tuple[int, int],
    streams: Streams,
) -> Examples:
    """Encodes both texts of each row and cuts them at the end. Every target has an end token.

    Args:
        lengths: most tokens of a text, and of a target; the base may allow less.
    """
    limit, target_limit = (min(length, tokenizer.model_max_length) for length in lengths)
    read = tokenizer(list(texts), verbose=False)["input_ids"]
    written = tokenizer(text_target=list(targets), verbose=False)["input_ids"]
    cut_read, cut_written = (
        sum(len(ids) > most for ids in column)
        for column, most in ((read, limit), (written, target_limit))
    )
    if cut_read:
        read = tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
    if cut_written:
        written = tokenizer(text_target=list(targets), truncation=True, max_length=target_limit)
        written = written["input_ids"]
    written = [streams.ended(ids, target_limit) for ids in written]
    unknown = tokenizer.unk_token_id
    inputs = {
        "input_ids": Ragged.of(read),
        "decoder_input_ids": Ragged.of(map(streams.decoder_inputs, written)),
    }
    tokens = np.concatenate([np.array(ids, np.int64) for ids in written])
    return Examples(
        rows=tuple(rows),
        inputs=inputs,
        targets=tokens,
        read_at=Ragged.of([np.arange(len(ids)) for ids in written], width=1),
        truncated=cut_read + cut_written,
        unknown_tokens=0
        if unknown is None
        else int((inputs["input_ids"].values == unknown).sum() + (tokens == unknown).sum()),
    )


def stream_prompts(examples: Examples, count: int, name: str) -> tuple[Prompt, ...]:
    """Prompts of the first `count` rows of a split.

    Args:
        name: the value of a row that reports show as the prompt.
    """
    rows = zip(examples.rows[:count], examples.input_ids, strict=False)
    return tuple(
        Prompt(row.number, row.values[name], expected, ids, tuple(others))
        for row, ids in rows
        for expected, *others in [row.values["targets"]]
    )
