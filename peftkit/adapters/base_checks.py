"""Checks that a base is the one a peftkit adapter was trained on."""

from __future__ import annotations

from peftkit.adapters.record import Record, chat_template_sha256, tokenizer_sha256
from peftkit.bases.files import download_weights
from peftkit.bases.fingerprint import fingerprint
from peftkit.bases.opened import OpenedBase
from peftkit.errors import AdapterError

CHAT_TEMPLATE = "chat_template.jinja"
"""The file in which transformers stores a tokenizer's chat template."""


def check_base(opened: OpenedBase, record: Record) -> None:
    """Raises AdapterError unless tokenizer, chat template and files are those used in training."""
    check_tokenizer(opened, record)
    check_template(opened, record)
    check_base_files(opened, record)


def check_template(opened: OpenedBase, record: Record) -> None:
    """Raises AdapterError if the chat template is not the one used in training."""
    if record.head.generation and chat_template_sha256(opened.tokenizer) != (
        record.chat_template_sha256
    ):
        raise AdapterError(
            f"the chat template `{CHAT_TEMPLATE}` is not the one the adapter was trained with",
            "copy the adapter folder again",
        )


def check_tokenizer(opened: OpenedBase, record: Record) -> None:
    """Raises AdapterError unless the base's tokenizer is the one used in training.

    If the tokenizers differ, sets the padding token that earlier peftkit versions chose, and
    compares again.
    """
    tokenizer = opened.tokenizer
    for pad in (tokenizer.pad_token, tokenizer.eos_token or tokenizer.unk_token):
        if pad is not None and pad != tokenizer.pad_token:
            tokenizer.pad_token = pad
        if tokenizer_sha256(tokenizer) == record.tokenizer_sha256:
            return
    raise AdapterError(
        f"the tokenizer of `{opened.name}` is not the one the adapter was trained with",
        "use the base named in the adapter's README.md",
    )


def check_base_files(opened: OpenedBase, record: Record) -> None:
    """Downloads the base's weights; raises AdapterError unless its files are those of training."""
    download_weights(opened)
    base, trained_on = fingerprint(opened), record.known_base
    if base.sha256 != trained_on.sha256:
        raise AdapterError(
            f"`{opened.name}` is not the base of this adapter: the digest of its files is "
            f"{base.sha256[:12]}, not {trained_on.sha256[:12]}",
            other_base_hint(record),
        )


def other_base_hint(record: Record) -> str:
    """The hint for the error that the given base is not the one used in training."""
    name = record.known_base.known_name
    return f"the adapter belongs to `{name}`; give its location with `--base`"
