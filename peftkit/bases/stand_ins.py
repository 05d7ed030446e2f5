"""Finds files that are not what their names say: a Git LFS pointer, a web page, an empty file,
another format.

Recognizes them by their first bytes. Standard library only.
"""

from __future__ import annotations

import pickletools
import re
from pathlib import Path
from typing import NamedTuple

BEGINNING = 2048
"""Number of bytes read from a file; a Git LFS pointer has 130."""
WHOLE = 2**20
"""Number of bytes read from a JSON file to find its encoding."""
FEW = 8
"""Number of pickle instructions that a plain text can start with by chance."""
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
AGAIN = "download it again; the link or the login may be wrong"
PULL = (
    "`git lfs pull` in its folder fetches the file; or download it again, for example with "
    "`hf download`"
)
MARKUP = (b"<!doctype html", b"<html", b"<head", b"<body", b"<?xml", b"<error")
FORMATS = (
    (b"PK\x03\x04", "a zip file, as `torch.save` writes"),
    (b"\x80\x02", "a pickle"), (b"\x80\x03", "a pickle"), (b"\x80\x04", "a pickle"),
    (b"GGUF", "a GGUF file"), (b"\x1f\x8b", "a gzip file"), (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy file"),
)  # fmt: skip
"""(first bytes, format) of files."""


class StandIn(NamedTuple):
    """The real content of a file whose name is wrong, and advice."""

    what: str
    """What the file is; continues a sentence that starts with the file's name."""
    advice: str


def stand_in(file: Path) -> StandIn | None:
    """Describes the real content of a file that cannot be JSON, weights or a template; None for any
    other file.
    """
    with file.open("rb") as opened:
        begins = opened.read(BEGINNING)
    if not begins:
        return StandIn("is damaged: it is empty", AGAIN)
    if begins.startswith(LFS_POINTER):
        size = re.search(rb"\nsize (\d{1,18})\b", begins)
        target = f" to {int(size[1]):,} bytes" if size else ""
        return StandIn(
            f"is a Git LFS pointer{target}, not the file itself; a clone without Git LFS leaves it",
            PULL,
        )
    if begins.lstrip().lower().startswith(MARKUP):
        return StandIn("is a web page, perhaps a server's error", AGAIN)
    return None


def encoding_of(file: Path) -> str:
    """A JSON file's encoding, in words; empty if it is UTF-8."""
    with file.open("rb") as opened:
        content = opened.read(WHOLE)
    ascii_alone = content[:BEGINNING].replace(b"\0", b"").lstrip(b"\xff\xfe")
    if b"\0" in content[:BEGINNING] and ascii_alone.lstrip()[:1] in (b"{", b"["):
        return "UTF-16 or UTF-32 text"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        odd = sum(byte < 32 and byte not in b"\t\r\n" for byte in content[:BEGINNING])
        if content.lstrip()[:1] == b"{" and not odd and error.end < len(content):
            letter = content[error.start : error.start + 1]
            return f"text in another encoding, such as Latin-1 ({letter!r} is not valid UTF-8)"
    return ""


def weights_stand_in(file: Path) -> StandIn | None:
    """Describes the real content of a file that is named as safetensors or a pickle, but cannot be
    what its name says; None for any other file.
    """
    if instead := stand_in(file):
        return instead
    with file.open("rb") as opened:
        begins = opened.read(BEGINNING)
    text = _as_text(begins)
    if text is not None and not (file.suffix != ".safetensors" and _is_pickle(begins)):
        return StandIn(f"holds text, not tensors; it starts with {text[:60]!r}", AGAIN)
    if file.suffix != ".safetensors":
        if is_safetensors(begins):
            return StandIn(
                "is a safetensors file with the name of a pickle",
                f"rename it to `{file.stem}.safetensors`",
            )
        return None
    for sign, what in FORMATS:
        if begins.startswith(sign) and not is_safetensors(begins):
            pickled = "pickle" in what or "torch" in what
            return StandIn(
                f"is {what}, with the name of a safetensors file",
                f"rename it to `{file.stem}.bin`, and run `peftkit convert` on it"
                if pickled
                else "ask whoever published it for a safetensors file",
            )
    return None


def is_safetensors(begins: bytes) -> bool:
    """Whether bytes start like a safetensors file: with the header's length, then JSON."""
    return len(begins) > 8 and begins[8:9] == b"{" and int.from_bytes(begins[:8], "little") < 2**32


def _is_pickle(begins: bytes) -> bool:
    """Whether bytes are a pickle or start one; does not run the pickle."""
    count = 0
    try:
        for _ in pickletools.genops(begins):
            count += 1
    except Exception:  # many types: no pickle, or cut off
        return len(begins) == BEGINNING and count > FEW
    return True


def _as_text(begins: bytes) -> str | None:
    """The first line of `begins`, a file's first bytes; None if the bytes are not plain UTF-8 text.
    An incomplete last character is ignored.
    """
    try:
        text = begins.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(begins) - 3 or error.end < len(begins):
            return None
        text = begins[: error.start].decode("utf-8")
    if not all(c.isprintable() or c in "\r\n\t" for c in text):
        return None
    return text.strip().split("\n")[0]
