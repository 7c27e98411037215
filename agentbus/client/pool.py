"""The tasks that run handlers: a few for all agents of a process, not some for each agent.

A task for each message would cost as much as everything else on the way (research: 3.6 µs), and a
task for each agent some KiB, which 100,000 idle agents would pay for nothing. So tasks stay, and
each takes the mailbox that has work next; there are as many as handlers ever ran at once.

`run_now` begins at once, as Python 3.12's eager tasks do: in the name and context of a task that
waits, but on the stack of who brought the message. A handler that awaits nothing is done when
`run_now` returns, and no task was woken. One that does is gone on with in that task.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from asyncio.tasks import _enter_task, _leave_task, current_task
from collections.abc import Generator
from types import coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from .mailbox import Mailbox

__all__ = ["WorkerPool", "Workload"]

logger = logging.getLogger("agentbus")

_SPARE: Final = 64
"""Tasks that wait for work; more than that end when they have nothing to do."""
_DEEPEST: Final = 8
"""Handlers that run on each other's stack at most, each since the one before asked it."""
_IN_A_ROW: Final = 64
"""Workloads done at once before one waits for the loop's next turn, so that other tasks get one."""
_CLOSE_EVERY: Final = 0.05
"""Seconds after which a task that goes on though it was cancelled is cancelled again."""

# What is read from a constant takes no look-up by name where this is compiled.
_ENTER: Final = _enter_task
_LEAVE: Final = _leave_task
_CURRENT: Final = current_task

_DONE: Final = object()
"""What a worker's coroutine awaits when it has nothing more to do."""

Begun = tuple[Any, bool]
"""What a worker's coroutine awaits, and whether it is to be cancelled there."""


class Workload(Protocol):
    """Something with messages to handle: a mailbox."""

    async def drain(self, task: asyncio.Task[object]) -> None:
        """Handle messages until none is left. Runs in `task`."""
        ...


class _Worker:
    """One task, and where it waits for work."""

    __slots__ = ("begun", "context", "mailbox", "send", "task", "waiter", "work")

    def __init__(self, context: contextvars.Context, task: asyncio.Task[None]) -> None:
        self.context = context
        self.task = task
        self.waiter: asyncio.Future[Workload | None] | None = None
        """Set while the task waits: what it is to do, None if that is in `begun`."""
        self.begun: Begun | None = None
        self.mailbox: Mailbox | None = None
        """What `work` drains next."""
        self.renew()

    def renew(self) -> None:
        """Begin with another coroutine, since the last one ended with an error."""
        self.work = _drain_all(self)
        self.send = self.work.send


class WorkerPool:
    """Runs workloads in tasks of its own, one each at a time. Close it with `aclose`."""

    __slots__ = (
        "_added",
        "_context",
        "_depth",
        "_done_in_a_row",
        "_idle",
        "_loop",
        "_spare",
        "_tasks",
    )

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._idle: list[_Worker] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._spare = _SPARE
        self._added: list[Mailbox] = []
        self._depth = 0
        self._done_in_a_row = 0

    def run(self, workload: Workload) -> None:
        """Have a task drain `workload`, soon."""
        worker = self._waiting()
        if worker is None:
            self._start(workload)
        elif worker.waiter is not None:
            worker.waiter.set_result(workload)

    def add(self, mailbox: Mailbox) -> None:
        """Have `begin` drain `mailbox`."""
        self._added.append(mailbox)

    def begin(self) -> None:
        """Run what was added, as `run_now`."""
        while self._added:
            added, self._added = self._added, []
            for mailbox in added:
                self.run_now(mailbox)

    def run_now(self, mailbox: Mailbox) -> None:
        """Drain `mailbox` up to where it first has to wait, and have a task go on from there."""
        self._done_in_a_row += 1
        if self._depth >= _DEEPEST or self._done_in_a_row >= _IN_A_ROW:
            self._done_in_a_row = 0
            self.run(mailbox)
            return
        worker = self._waiting()
        if worker is None:
            self._start(mailbox)
            return
        self._depth += 1
        caller = _CURRENT(self._loop)
        if caller is not None:
            _LEAVE(self._loop, caller)
        try:
            begun = _begin(worker, mailbox, self._loop)
        finally:
            self._depth -= 1
            if caller is not None:
                _ENTER(self._loop, caller)
        if begun is None:
            self._idle.append(worker)
        else:
            self._go_on(worker, begun)

    def _waiting(self) -> _Worker | None:
        idle = self._idle
        while idle:
            worker = idle.pop()  # the latest: its memory is the warmest
            if worker.waiter is not None and not worker.waiter.done():
                return worker
        return None

    def _start(self, workload: Workload) -> None:
        context = self._context.copy()
        task = self._loop.create_task(self._work(context, workload), context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _go_on(self, worker: _Worker, begun: Begun) -> None:
        worker.begun = begun
        waiter = worker.waiter
        # If the task was cancelled on the way, it wakes up by itself.
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _work(self, context: contextvars.Context, workload: Workload | None) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a worker runs inside a task")
        worker = _Worker(context, task)
        while True:
            try:
                if workload is not None:
                    await workload.drain(task)
                elif worker.begun is not None:
                    await _finish(worker, *worker.begun)
            except Exception:  # noqa: BLE001 - logged there
                _log_defect()
            if len(self._idle) >= self._spare:
                return
            worker.begun = workload = None  # what was done may be gone by the next time
            workload = await self._next(worker)

    async def _next(self, worker: _Worker) -> Workload | None:
        """Wait for work; None if it is in `begun`."""
        waiter = worker.waiter = self._loop.create_future()
        self._idle.append(worker)
        try:
            workload: Workload | None = await waiter
        except asyncio.CancelledError:
            if worker.begun is None:
                raise
            awaited, _ = worker.begun
            # As the task would have done: what is awaited is cancelled if that can be.
            unheard = not (isinstance(awaited, asyncio.Future) and awaited.cancel())
            worker.begun = awaited, unheard
            return None
        finally:
            worker.waiter = None
        return workload

    async def aclose(self, closer: asyncio.Task[object] | None) -> None:
        """Cancel what is being handled, again and again until it has ended.

        Args:
            closer: the task in whose name this is done, which may be one of these.
        """
        self._spare = 0
        while tasks := [task for task in self._tasks if task is not closer]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_CLOSE_EVERY)


@coroutine
def _drain_all(worker: _Worker) -> Generator[Any, None, None]:
    """Drain mailboxes, one after another. What ends with a value costs less than what raises that it
    has ended, so this never ends: it awaits `_DONE`, and goes on when the next one is in place."""
    while True:
        mailbox, worker.mailbox = worker.mailbox, None
        if mailbox is not None:
            yield from mailbox.drain(worker.task)
            mailbox = None
        yield _DONE


def _begin(worker: _Worker, mailbox: Mailbox, loop: asyncio.AbstractEventLoop) -> Begun | None:
    """Drain as far as that goes at once; return what is left, None if all is done."""
    task = worker.task
    worker.mailbox = mailbox
    _ENTER(loop, task)
    try:
        awaited = worker.context.run(worker.send, None)
    except asyncio.CancelledError:
        worker.renew()
        return None  # the task is cancelled, and ends by itself
    except Exception:  # noqa: BLE001 - logged there
        worker.renew()
        _log_defect()
        return None
    finally:
        _LEAVE(loop, task)
    if awaited is _DONE:
        return None
    _mark_awaited(awaited, False)
    return awaited, False


@coroutine
def _finish(worker: _Worker, awaited: Any, cancelled: bool) -> Generator[Any, None, None]:
    """Go on with what was begun."""
    work = worker.work
    _mark_awaited(awaited, True)
    try:
        while awaited is not _DONE:
            try:
                if cancelled:
                    cancelled = False
                    raise asyncio.CancelledError
                yield awaited
            except BaseException as error:  # noqa: BLE001 - it is what was begun that it is thrown at
                awaited = work.throw(error)
            else:
                awaited = work.send(None)
    except BaseException:
        worker.renew()
        raise


def _mark_awaited(awaited: Any, mark: bool) -> None:
    """Say to the task that gets a future next that it is awaited, or take that back, as a task does
    that gets it: meanwhile others may await it and look."""
    if asyncio.isfuture(awaited):
        awaited._asyncio_future_blocking = mark


def _log_defect() -> None:
    # Nothing that one agent or request brings may end the others.
    logger.exception("a task that runs handlers met a defect")
