"""Chooses the token to pad rows with.

A text classifier on a decoder reads the last token that is not the padding token, so texts must not
end in the padding token. Other models do not read padding, so any token can be their padding token.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peftkit.bases.token_ids import embedding_rows

NEVER_IN_UTF8 = (0xFF, 0xFE, 0xFD, 0xFC, 0xFB, 0xFA, 0xF9, 0xF8, 0xC1, 0xC0)
"""Bytes that never occur in UTF-8; byte-level vocabularies have tokens for some of them."""


def choose_padding(tokenizer: Any, config: Any, one_output: bool) -> None:
    """Sets a tokenizer's padding token to a token with an embedding row. If the present padding
    token has an embedding row, keeps it.

    Args:
        config: the base's configuration.
        one_output: whether each text has one output. If so, texts must not end in the padding
            token.
    """
    rows = embedding_rows(config)
    ends = _appended(tokenizer) if one_output else None
    for token in _candidates(tokenizer, config, one_output):
        index = tokenizer.convert_tokens_to_ids(token)
        if index is not None and index != ends and (rows is None or index < rows):
            if tokenizer.pad_token != token:
                tokenizer.pad_token = token
            return


def _candidates(tokenizer: Any, config: Any, one_output: bool) -> Iterator[str]:
    """Yields tokens to pad with, best first: the tokenizer's padding token; the padding token in
    `config`, on which positions may depend; end of text; other special tokens; bytes that no text
    contains; any token.
    """
    own, unknown, special = tokenizer.pad_token, tokenizer.unk_token, tokenizer.all_special_tokens
    if own is not None:
        yield own
        index = getattr(config.get_text_config(), "pad_token_id", None)
        if index in range(len(tokenizer)):
            yield tokenizer.convert_ids_to_tokens(index)
    yield from filter(None, (tokenizer.eos_token, None if one_output else unknown))
    yield from (token for token in special if token != unknown)
    vocabulary = tokenizer.get_vocab()
    for byte in NEVER_IN_UTF8:
        for token in (f"<0x{byte:02X}>", chr(byte)):  # byte-fallback, then byte-level
            if token in vocabulary and tokenizer.decode([vocabulary[token]]) == "\ufffd":
                yield token
    yield from filter(None, (unknown,))
    yield from sorted(vocabulary, key=vocabulary.__getitem__)


def _appended(tokenizer: Any) -> int | None:
    """The id of the token that a tokenizer appends to every text; None if it appends none."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    ids = tokenizer("a")["input_ids"]
    return int(ids[-1]) if ids and ids[-len(plain) :] != plain else None


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Saves a tokenizer. Leaves out its padding token if this is an ordinary token, because
    transformers would load it as a special token and remove it from texts.
    """
    pad, special = tokenizer.pad_token, {str(t) for t in tokenizer.added_tokens_decoder.values()}
    if pad not in special:
        tokenizer.pad_token = None
    try:
        tokenizer.save_pretrained(folder)
    finally:
        if tokenizer.pad_token != pad:
            tokenizer.pad_token = pad


def put_back_padding(tokenizer: Any, pad: str | None) -> None:
    """Restores the padding token that `save_tokenizer` left out."""
    if tokenizer.pad_token is None and pad is not None:
        tokenizer.pad_token = pad
