"""Sets the number of CPU threads and how they wait for one another. The number changes the last
bits of results; the way of waiting changes only speed.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

CHOSEN_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Environment variables that set how OpenMP threads wait."""
SPINS = "1000"
"""Number of times that a GNU OpenMP thread checks for work before it sleeps. OpenMP's own default
is 300,000 (measured in docs/log.md)."""
CGROUP = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def sleep_while_waiting() -> None:
    """Makes OpenMP threads sleep instead of spin while they wait, unless an environment variable
    sets this already. Call it before importing torch; child processes inherit the setting.

    A spinning thread wastes a core if it waits for a thread that another program delays.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = SPINS  # Linux
        os.environ["KMP_BLOCKTIME"] = "0"  # macOS, milliseconds


def use_usable_cpus() -> None:
    """Limits torch's threads to the processors that this process may use."""
    import torch

    if (number := resolved_threads(None)) != torch.get_num_threads():
        torch.set_num_threads(number)


def resolved_threads(wanted: int | None) -> int:
    """Returns the number of threads for a run, the first known of these numbers: `wanted`; the
    number that the environment sets; torch's default, but at most the number of usable processors.
    """
    if wanted is not None:
        return wanted
    import torch

    if any(os.environ.get(name) for name in CHOSEN_BY_USER):
        return torch.get_num_threads()
    return max(1, min(torch.get_num_threads(), usable_cpus()))


@contextlib.contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Makes torch compute with `number` threads inside the block."""
    import torch

    before = torch.get_num_threads()
    if number != before:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if number != before:
            torch.set_num_threads(before)


def usable_cpus(cgroup: Path = CGROUP, membership: Path = MEMBERSHIP) -> int:
    """Returns the number of processors that this process may use. It is limited by CPU affinity and
    by the quotas of the process's control group and the group's parents.

    Args:
        cgroup: the folder with the files of the control groups, version 1 or 2.
        membership: the file that names the control groups of the process.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    quotas = [quota for group in _groups(cgroup, membership) if (quota := _quota(group))]
    return max(1, min([cpus, *map(math.ceil, quotas)]))


def _groups(cgroup: Path, membership: Path) -> Iterator[Path]:
    """Yields the folders of the process's control group and of its parents."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    yield from (cgroup, cgroup / "cpu")  # the groups of a container, from inside it
    for line in lines:  # `0::/a/b` of version 2, `4:cpu,cpuacct:/a/b` of version 1
        _, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(",") or not controllers:
            inside = cgroup / ("cpu" if controllers else "") / path.lstrip("/")
            yield from (one for one in (inside, *inside.parents) if cgroup in one.parents)


def _quota(group: Path) -> float | None:
    """Returns the CPU quota of a control group as a number of processors; None for no limit."""
    try:
        if (file := group / "cpu.max").is_file():
            limit, period = file.read_text().split()
        else:
            limit = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        share = int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such files, or `max`
        return None
    return share if share > 0 else None
