"""Checks that a base's tokenizer knows the tokens of the texts."""

from __future__ import annotations

from collections.abc import Iterator

from peftkit.bases.opened import OpenedBase
from peftkit.data.encoded import Encoded
from peftkit.errors import DataError

MANY = 0.05
"""Share of unknown tokens in a split above which a note is written."""
READS_MANY_LANGUAGES = "packaged:multilingual-e5-small"


def unknown_token_notes(encoded: Encoded, base: OpenedBase) -> Iterator[str]:
    """Yields a note for each split with many unknown tokens.

    Raises:
        DataError: a split has more unknown tokens than `base.max_unknown_tokens` allows.
    """
    reads = "a base that reads the language"
    if encoded.head.output != "vocabulary":
        reads += f", such as `{READS_MANY_LANGUAGES}`"
    for name, examples in encoded.splits().items():
        share = examples.unknown_tokens / max(1, examples.num_tokens)
        found = f"{share:.0%} of the {name} split's tokens are unknown to the tokenizer of "
        if share > base.spec.max_unknown_tokens:
            raise DataError(
                f"{found}`{base.spec.name_or_path}`",
                f"choose {reads}; to train all the same, raise `--base.max-unknown-tokens`",
            )
        if share > MANY:
            yield f"{found}`{base.spec.name_or_path}`; choose {reads}"
