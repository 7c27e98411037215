"""What a block of code left behind: tasks that still run, descriptors that are still open."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["Leftovers"]

_GRACE = 1.0
"""Seconds in which what is ending may end."""
_LOOK = 0.01


class Leftovers:
    """Compares what there is with what there was when this was made."""

    def __init__(self) -> None:
        self._tasks = asyncio.all_tasks()
        self._descriptors = frozenset(_descriptors())

    def tasks(self) -> list[str]:
        """Return the tasks that were begun since and have not ended, without the running one."""
        new = asyncio.all_tasks() - self._tasks - {asyncio.current_task()}
        return sorted(f"task {task.get_name()}: {_where(task)}" for task in new)

    def descriptors(self) -> list[str]:
        """Return the sockets, files and shared memory that were opened since and are still open.

        Where the system lists no process's descriptors, there are none.
        """
        return sorted(set(_descriptors()) - self._descriptors)


def _where(task: asyncio.Task[object]) -> str:
    return getattr(task.get_coro(), "__qualname__", repr(task.get_coro()))


def _descriptors() -> Iterator[str]:
    folder = Path("/proc/self/fd")
    if folder.is_dir():
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                target = os.readlink(folder / name)
                # Others, such as pipes and event queues, are the loop's and the threads' own.
                if target.startswith(("socket:", "/")) and not target.startswith(("/dev", "/proc")):
                    yield f"{name} → {target}"


async def settled(left: Callable[[], list[str]], seconds: float = _GRACE) -> list[str]:
    """Return what is left once nothing is, or when the time is over."""
    deadline = asyncio.get_running_loop().time() + seconds
    # The loop tells nobody when the last of many tasks has ended.
    while (found := left()) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_LOOK)
    return found
