"""The one thread that computes, and the queue before it.

Jobs run one at a time in the order in which they came. What a job yields goes to its reader's
event loop as it comes; a slow reader holds up nobody. What a job does is `engine`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable

import anyio

from agentbus.engine.base import Finished, GenerateRequest, Piece
from agentbus.errors import AgentbusError, Closed, MailboxFull

__all__ = ["Driver", "Job", "Result"]

Result = Piece | Finished | AgentbusError

_STEP_LIMIT_S = 60.0
"""Longest that a cancelled call waits for the step that is being computed."""


class Job:
    """A submitted request. Made on the reader's event loop; `post` and `end` are for the thread."""

    __slots__ = ("_ended", "_loop", "_results", "cancelled", "request", "submitted", "with_cue")

    def __init__(self, request: GenerateRequest, *, with_cue: bool = True) -> None:
        self.request = request
        self.with_cue = with_cue
        self.submitted = time.perf_counter()
        self.cancelled = False
        """Set to stop at the next step."""
        self._loop = asyncio.get_running_loop()
        self._results: asyncio.Queue[Result] = asyncio.Queue()  # bounded by the answer's length
        self._ended = asyncio.Event()

    def post(self, result: Result) -> None:
        """Hand a result to the reader."""
        self._on_loop(lambda: self._results.put_nowait(result))

    def end(self) -> None:
        """Say that nothing more will come, and nothing of the job is left in the engine."""
        self._on_loop(self._ended.set)

    async def next(self) -> Result:
        """Wait for the next result."""
        return await self._results.get()

    async def ended(self) -> None:
        """Wait until the thread has let go of the job."""
        await self._ended.wait()

    def _on_loop(self, function: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the reader's loop was closed: nobody waits
            self._loop.call_soon_threadsafe(function)


class Driver:
    """Runs `work(job)` for each submitted job in a thread of its own, until closed."""

    def __init__(
        self, work: Callable[[Job], None], *, prepare: Callable[[], None], name: str, limit: int
    ) -> None:
        """Start the thread, which first calls `prepare`.

        Args:
            limit: most jobs that wait; more are refused.
            name: of the model, for errors.
        """
        self._work = work
        self._prepare = prepare
        self._name = name
        self._limit = limit
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="agentbus-torch", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called."""
        return self._closed

    @property
    def waiting(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Jobs that run: 0 or 1."""
        return int(self._running is not None)

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            MailboxFull: too many wait.
            Closed: the driver is closed.
        """
        with self._changed:
            if self._closed:
                raise Closed("engine")
            if len(self._waiting) >= self._limit:
                raise MailboxFull(self._name, self._limit)
            self._waiting.append(job)
            self._changed.notify()

    async def withdraw(self, job: Job) -> None:
        """Cancel a job if it has not ended; return when the engine holds nothing of it."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                return
            job.cancelled = True
        with anyio.move_on_after(_STEP_LIMIT_S, shield=True):
            await job.ended()

    async def aclose(self) -> None:
        """Cancel all jobs and end the thread."""
        with self._changed:
            self._closed = True
            left = [*self._waiting]
            self._waiting.clear()
            if self._running is not None:
                self._running.cancelled = True
            self._changed.notify()
        for job in left:
            job.post(Closed("engine"))
            job.end()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._thread.join, _STEP_LIMIT_S)

    def _serve(self) -> None:
        self._prepare()
        while (job := self._next()) is not None:
            try:
                self._work(job)
            finally:
                self._running = None
                job.end()

    def _next(self) -> Job | None:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            self._running = self._waiting.popleft()
            return self._running
