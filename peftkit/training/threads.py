"""How many threads a CPU computes with: the number decides the last bits of what is computed."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch

CHOSEN_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
CGROUP = Path("/sys/fs/cgroup")


def resolved_threads(wanted: int | None) -> int:
    """The threads that a run uses: those that the recipe names; else torch's own number, which the
    environment may set, but no more than the process may use.
    """
    if wanted is not None:
        return wanted
    if any(os.environ.get(name) for name in CHOSEN_BY_USER):
        return torch.get_num_threads()
    return max(1, min(torch.get_num_threads(), usable_cpus()))


@contextlib.contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Inside, torch computes with so many threads."""
    before = torch.get_num_threads()
    if number != before:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if number != before:
            torch.set_num_threads(before)


def usable_cpus(cgroup: Path = CGROUP) -> int:
    """Processors that this process may use, by its affinity and by the quota of its control group.

    Args:
        cgroup: where the control group's files are, of version 2 or 1.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _quota(cgroup)
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def _quota(cgroup: Path) -> float | None:
    """Processors' worth of time that a control group may use; None for no limit."""
    try:
        if (file := cgroup / "cpu.max").is_file():
            limit, period = file.read_text().split()
        else:
            limit = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        share = int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such files, or `max`
        return None
    return share if share > 0 else None
