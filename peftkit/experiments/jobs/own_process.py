"""Runs a function in a separate process, with isolated memory; a crash is contained.

Without a GPU, the process is forked from a server process that has only imported the libraries,
if the system can fork. The process ends when its parent process ends.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from typing import Any

import torch

from peftkit.bases.devices import is_out_of_memory
from peftkit.bases.quiet_libraries import quiet_libraries
from peftkit.errors import PeftkitError, RecipeError, TrainingError, first_line
from peftkit.training.threads import sleep_while_waiting

PRELOADED = ["peftkit.experiments.jobs.preloaded"]


class DiedError(TrainingError):
    """Raised if a process ended without a result; another attempt may succeed."""


def refuse_inner(what: str, function: str) -> None:
    """Raises RecipeError in a process that `run_isolated` started and that imports the user's
    script, which calls `function` again.
    """
    if multiprocessing.parent_process() is not None:
        raise RecipeError(
            f"each process of the {what} imports the script, which starts a {what} again",
            f'put the call of `{function}` under `if __name__ == "__main__":`',
        )


def refuse_launcher(what: str, command: str) -> None:
    """Raises RecipeError if a launcher has started several processes."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise RecipeError(
            f"{what} cannot run in several processes: it starts one process for each run",
            f"start `{command}` without `accelerate launch`",
        )


def run_isolated(function: Callable[..., Any], *arguments: Any) -> Any:
    """Runs a function of a module in another process and returns its result. Processes that are
    started from now on sleep while they wait, see `sleep_while_waiting`.

    Raises:
        PeftkitError: the function raised this error.
        DiedError: the process was killed, or the function raised any other error.
    """
    sleep_while_waiting()
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_inside, args=(sender, function, arguments))  # type: ignore[attr-defined]
    process.start()
    sender.close()
    try:
        kind, value = receiver.recv()
    except EOFError:
        process.join()
        raise DiedError(_how_it_died(process.exitcode)) from None
    except BaseException:
        process.terminate()
        process.join()
        raise
    process.join()
    if kind == "error":
        error, message, hint = value
        raise error(message, hint)
    if kind == "died":
        raise DiedError(value)
    return value


def _context() -> BaseContext:
    """How to start processes: `spawn` if there is a GPU or no fork server, `forkserver` if not."""
    if torch.cuda.is_available() or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _inside(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet_libraries()
    gc.freeze()  # garbage collection can skip the existing objects
    try:
        answer = ("done", function(*arguments))
    except PeftkitError as error:
        answer = ("error", (type(error), error.message, error.hint))
    except KeyboardInterrupt:
        os._exit(130)
    except Exception as error:
        details = f"{type(error).__name__}: {first_line(error)}\n{traceback.format_exc()}"
        answer = ("died", "memory ran out" if is_out_of_memory(error) else details)
    with contextlib.suppress(BrokenPipeError):
        sender.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _how_it_died(code: int | None) -> str:
    if code == -9:
        return "the process was killed, as happens when memory runs out"
    return f"the process ended with exit code {code} and no message"
