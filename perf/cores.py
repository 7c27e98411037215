"""What a contender's processes do to the cores: keeps them on one for a while, waits until they are
idle, and counts their CPU time, where the system can (Linux).

Two processes that take turns run either on one core, with cheap hand-overs, or on two, with costly
wake-ups; the kernel chooses, and its choice moves a round trip more than the code under test does.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter

__all__ = ["can_pin", "cpu_seconds", "group_threads", "machine_idle", "one_core"]

_LOOK_S = 0.2
_BUSY_SHARE = 0.1
"""Of one core: what the system and idle processes use now and then."""
_IDLE_LOOKS = 7
"""Looks in a row at an idle machine: cores that were busy a moment ago are faster for a while."""
_LONGEST_WAIT_S = 10.0


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


async def machine_idle() -> None:
    """Wait until nothing has computed on this machine for over a second, or for 10 seconds.

    Servers go on looking for work for a while: vLLM's keeps a core busy for a second after an
    answer, which the contender whose turn is next would pay for.
    """
    deadline, idle = perf_counter() + _LONGEST_WAIT_S, 0
    while idle < _IDLE_LOOKS and perf_counter() < deadline:
        before = _busy_seconds()
        await asyncio.sleep(_LOOK_S)
        is_idle = _busy_seconds() - before < _BUSY_SHARE * _LOOK_S
        idle = idle + 1 if is_idle else 0


def _busy_seconds() -> float:
    """Return the CPU time that was used on all cores, 0 where the system does not say."""
    try:
        with Path("/proc/stat").open() as stat:
            user, nice, system = map(int, stat.readline().split()[1:4])
    except OSError:
        return 0.0
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


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
