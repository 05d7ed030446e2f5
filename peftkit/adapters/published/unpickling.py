"""Converts a pickle of tensors to safetensors: a script, run in a separate process.

    python -P unpickling.py PICKLE OUTPUT    prints one JSON object: `tensors` and `shared`, or
                                             `error` and `hint`

`torch.load(weights_only=True)` builds only tensors and plain containers. In case a pickle gets
around that, an audit hook (PEP 578) is set before the file is opened. It refuses sockets, other
programs, libraries, and writing any file but the output. The hook stops Python code, but not
machine code that a flaw in torch could run. Only a sandbox of the operating system could stop that,
and it needs rights that peftkit does not ask for. The script does not import peftkit, to start
quickly.
"""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

REFUSED = (
    "socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile",
    "os.fork", "pty.", "ctypes.", "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.",
    "os.remove", "os.rename", "os.rmdir", "shutil.", "os.link", "os.symlink", "os.chmod",
)  # fmt: skip
"""Prefixes of refused audit events."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
TAR, TAR_AT = b"ustar", 257
"""The bytes that mark a tar file, and their position."""
MOST_GROWTH = 16
"""Largest allowed size of all tensors, in multiples of the pickle's size. Tensors that share
storage are larger than their pickle, but a pickle beyond this limit is an attack."""


class Refused(Exception):
    """Raised if a file cannot be converted, for example if it holds more than named tensors."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


def main(source: str, output: str) -> None:
    """Converts a file and prints the report."""
    import safetensors.torch
    import torch

    _refuse_all_but(output)
    try:
        tensors, shared = _tensors(_load(source), Path(source).stat().st_size)
        safetensors.torch.save_file(tensors, output, metadata={"format": "pt"})
        again = safetensors.torch.load_file(output)
        if again.keys() != tensors.keys() or not all(
            _same(again[name], tensor) for name, tensor in tensors.items()
        ):
            raise Refused("the written file does not read back as the same tensors")
        report: dict[str, Any] = {"tensors": len(tensors), "shared": shared}
    except Refused as error:
        report = {"error": error.message, "hint": error.hint}
    except (MemoryError, torch.OutOfMemoryError):
        report = {"error": "its tensors need more memory than available", "hint": ""}
    except Exception as error:  # safetensors documents no types
        report = {"error": f"it cannot be written: {type(error).__name__}: {error}", "hint": ""}
    print(json.dumps(report))


def _refuse_all_but(output: str) -> None:
    """Sets the audit hook described in the module's docstring."""
    sys.dont_write_bytecode = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(REFUSED):
            raise PermissionError(f"`{event}` is refused while a pickle is read")
        if event == "open" and arguments[0] != output and (arguments[2] or 0) & WRITES:
            raise PermissionError(f"`{arguments[0]}` is not written while a pickle is read")

    sys.addaudithook(hook)


def _load(source: str) -> Any:
    """Loads the content of a pickle.

    Raises:
        Refused: the pickle holds more than data, or is damaged.
    """
    import pickle

    import torch

    with open(source, "rb") as file:  # noqa: PTH123  # quick to start
        if file.read(TAR_AT + len(TAR))[TAR_AT:] == TAR:
            raise Refused(
                "it is a tar file, as written by the first versions of PyTorch, which would be "
                "unpacked to disk",
                "ask whoever published it for a safetensors file",
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(source, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        if asked := re.search(r"GLOBAL (\S+)", str(error)):
            raise Refused(
                f"it holds more than tensors: it asks for `{asked[1][:100]}`, which was not run",
                "ask whoever published it for a safetensors file",
            ) from error
        odd = re.search(r"Unsupported operand \d+", str(error))
        reason = odd[0] if odd else str(error).strip().split("\n")[0]
        raise Refused(
            f"it was not written by `torch.save`, or is damaged: {reason}", "download it again"
        ) from error
    except PermissionError as error:
        raise Refused(f"it does more than hold tensors: {error}", "do not load it") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError) as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0] or type(error).__name__
        raise Refused(f"it is damaged or cut off: {reason}", "download it again") from error


def _tensors(content: Any, size: int) -> tuple[dict[str, Any], int]:
    """Returns name -> tensor with its own storage, and the number of tensors that shared storage.

    Raises:
        Refused: the content is not named tensors, or the tensors are too large for the file's size.
    """
    import torch

    if not isinstance(content, dict):
        raise Refused(f"it holds {type(content).__name__}, not tensors by name")
    if not content:
        raise Refused("it holds no tensors", "download it again")
    odd = [
        f"`{name[:60]}` is {type(value).__name__}"
        if isinstance(name, str)
        else f"the name {str(name)[:60]} is {type(name).__name__}"
        for name, value in content.items()
        if not (isinstance(name, str) and isinstance(value, torch.Tensor))
    ]
    if odd:
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        raise Refused(
            f"it holds more than tensors by name: {', '.join(odd[:3])}{more}",
            "it is a trainer's checkpoint or another program's file; find the adapter's file",
        )
    for name, tensor in content.items():
        odd_kind = tensor.is_quantized or tensor.is_meta or tensor.is_complex()
        if tensor.layout != torch.strided or odd_kind:
            raise Refused(f"safetensors cannot hold `{name[:60]}`: it is no plain tensor")
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in content.values())
    if claimed > MOST_GROWTH * size:
        raise Refused(
            f"its tensors claim {claimed:,} bytes, and the file has {size:,}", "do not load it"
        )
    storages = (t.untyped_storage().data_ptr() for t in content.values() if t.numel())
    shared = sum(users for users in Counter(storages).values() if users > 1)
    return {name: tensor.detach().clone().contiguous() for name, tensor in content.items()}, shared


def _same(one: Any, other: Any) -> bool:
    """Whether two tensors have the same dtype, shape and bytes."""
    import torch

    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    left, right = (t.reshape(-1).contiguous().view(torch.uint8) for t in (one, other))
    return bool(torch.equal(left, right))


if __name__ == "__main__":
    main(*sys.argv[1:])
