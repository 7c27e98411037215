"""The tasks that run handlers: a few for all agents of a process, not some for each agent.

A task for each message would cost as much as everything else on the way (research: 3.6 µs), and a
task for each agent some KiB, which 100,000 idle agents would pay for nothing. So tasks stay, and
each takes the mailbox that has work next; there are as many as handlers ever ran at once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from anyio.abc import TaskGroup

__all__ = ["WorkerPool", "Workload"]

logger = logging.getLogger("agentbus")

_SPARE = 64
"""Tasks that wait for work; more than that end when they have nothing to do."""


class Workload(Protocol):
    """Something with messages to handle: a mailbox."""

    async def drain(self, task: asyncio.Task[object]) -> None:
        """Handle messages until none is left. Runs in `task`."""
        ...


class WorkerPool:
    """Runs workloads in tasks of `group`, one each at a time."""

    __slots__ = ("_group", "_idle", "_loop")

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self._loop = asyncio.get_running_loop()
        self._idle: list[asyncio.Future[Workload]] = []

    def run(self, workload: Workload) -> None:
        """Have a task drain `workload`, soon."""
        while self._idle:
            waiter = self._idle.pop()  # the latest: its memory is the warmest
            if not waiter.done():
                waiter.set_result(workload)
                return
        self._group.start_soon(self._work, workload)

    async def _work(self, workload: Workload) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a worker runs inside a task")
        while True:
            try:
                await workload.drain(task)
            except Exception:
                # Nothing that one agent or request brings may end the others.
                logger.exception("a task that runs handlers met a defect")
            if len(self._idle) >= _SPARE:
                return
            waiter: asyncio.Future[Workload] = self._loop.create_future()
            self._idle.append(waiter)
            workload = await waiter
