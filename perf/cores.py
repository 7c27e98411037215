"""What a contender's processes do to the cores: keeps them on one for a while, and counts their
CPU time, where the system can (Linux).

Two processes that take turns run either on one core, with cheap hand-overs, or on two, with costly
wake-ups; the kernel chooses, and its choice moves a round trip more than the code under test does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["can_pin", "cpu_seconds", "group_threads", "one_core"]


def can_pin() -> bool:
    """Whether this system lets a process choose its cores."""
    return sys.platform == "linux"


def group_threads() -> list[int]:
    """Return the ids of all threads of all processes in this process's group."""
    group, threads = os.getpgrp(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended while we looked
            if os.getpgid(int(folder.name)) == group:
                threads += [int(task.name) for task in (folder / "task").iterdir()]
    return threads


def cpu_seconds() -> float:
    """Return the CPU time that this process's group has used, all its living threads together."""
    spent = 0
    for thread in group_threads():
        with suppress(OSError):  # it ended while we looked
            spent += int(Path(f"/proc/{thread}/schedstat").read_text().split()[0])
    return spent / 1e9


@contextmanager
def one_core() -> Iterator[None]:
    """Run this process's whole group on the last of its cores while the block runs."""
    if sys.platform == "linux":
        before = os.sched_getaffinity(0)
        _pin({max(before)})
        try:
            yield
        finally:
            _pin(before)


def _pin(cores: set[int]) -> None:
    if sys.platform == "linux":
        for thread in group_threads():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread, cores)
