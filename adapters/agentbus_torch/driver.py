"""The one thread that computes, and the queue before it.

What comes in between two steps is taken up before the next one. What a step yields goes to the
readers' event loops at once; a slow reader holds up nobody. What a job is made into, and what a step
does, is the `Worker`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

import anyio

from agentbus.engine.base import Finished, GenerateRequest, Piece
from agentbus.errors import AgentbusError, Closed, EngineFailed, MailboxFull

from .sequence import Call

__all__ = ["Driver", "Job", "Result", "Worker"]

logger = logging.getLogger(__name__)

Result = Piece | Finished | AgentbusError

_STEP_LIMIT_S = 60.0
"""Longest that a cancelled call waits for the step that is being computed."""

_REST_S = 0.1
"""A worker rests when nothing was asked for so long."""

_YIELD_S = 2e-5
"""A pause after the last tokens of answers: ending them is Python's work alone, and would keep
their readers' threads waiting for the interpreter's lock."""


class Outbox:
    """What the thread has for event loops. Each is woken once for all of it: waking one is a system
    call, and beside 32 answers as many of them took a third of the thread's time."""

    def __init__(self) -> None:
        self._due: dict[asyncio.AbstractEventLoop, list[Callable[[], object]]] = {}

    def add(self, loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
        """Have a loop call a function, in the order in which they were added, from `flush` on."""
        self._due.setdefault(loop, []).append(function)

    def flush(self) -> None:
        """Hand everything over."""
        due, self._due = self._due, {}
        for loop, functions in due.items():
            with contextlib.suppress(RuntimeError):  # the readers' loop was closed: nobody waits
                loop.call_soon_threadsafe(_call_all, functions)


def _call_all(functions: list[Callable[[], object]]) -> None:
    for function in functions:
        function()


class Job:
    """A submitted request. Made on the reader's event loop; `post` and `end` are for the thread."""

    __slots__ = ("_ended", "_loop", "_outbox", "_results", "make_call", "request", "submitted")

    def __init__(
        self, request: GenerateRequest, make_call: Callable[[], Call], outbox: Outbox
    ) -> None:
        """Take a request.

        Args:
            make_call: makes what is computed, in the thread.
            outbox: the thread's.
        """
        self.request = request
        self.make_call = make_call
        self.submitted = time.perf_counter()
        self._outbox = outbox
        self._loop = asyncio.get_running_loop()
        self._results: asyncio.Queue[Result] = asyncio.Queue()  # bounded by the answer's length
        self._ended = asyncio.Event()

    def post(self, result: Result) -> None:
        """Hand a result to the reader, with all else that is in the outbox."""
        self._outbox.add(self._loop, partial(self._results.put_nowait, result))

    def end(self) -> None:
        """Say that nothing more will come, and nothing of the job is left in the engine."""
        self._outbox.add(self._loop, self._ended.set)

    async def next(self) -> Result:
        """Wait for the next result."""
        return await self._results.get()

    async def ended(self) -> None:
        """Wait until the thread has let go of the job."""
        await self._ended.wait()


class Worker(Protocol):
    """What the thread does. It raises nothing: what breaks ends the jobs that it belongs to."""

    @property
    def running(self) -> int:
        """Jobs that are being computed."""
        ...

    def prepare(self) -> None:
        """Set the thread up."""
        ...

    def begin(self, job: Job) -> bool:
        """Take a job up; False if it ended at once."""
        ...

    def step(self) -> list[Job]:
        """Compute one step of the jobs that were taken up; return those that end with it."""
        ...

    def end(self, job: Job) -> None:
        """Free all that such a job holds, and post how it ended."""
        ...

    def cancel(self, job: Job) -> None:
        """Free all that a job holds."""
        ...

    def rest(self) -> None:
        """Let go of what others could use: nothing was asked for a while."""
        ...


class Driver:
    """Runs a worker in a thread of its own, until closed."""

    def __init__(self, worker: Worker, *, name: str, limit: int) -> None:
        """Start the thread.

        Args:
            limit: most jobs that wait; more are refused.
            name: of the model, for errors.
        """
        self._worker = worker
        self._name = name
        self._limit = limit
        self._outbox = Outbox()
        self._new: list[Job] = []
        self._jobs: set[Job] = set()
        self._cancelled: list[Job] = []
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
        """Jobs that wait for their turn."""
        return max(0, len(self._jobs) - self._worker.running)

    def submit(self, request: GenerateRequest, make_call: Callable[[], Call]) -> Job:
        """Queue a request, of which `make_call` makes what is computed, in the thread.

        Raises:
            MailboxFull: too many wait.
            Closed: the driver is closed.
        """
        with self._changed:
            if self._closed:
                raise Closed("engine")
            if self.waiting >= self._limit:
                raise MailboxFull(self._name, self._limit)
            job = Job(request, make_call, self._outbox)
            self._jobs.add(job)
            self._new.append(job)
            self._changed.notify()
        return job

    async def withdraw(self, job: Job) -> None:
        """Cancel a job if it has not ended; return when the engine holds nothing of it."""
        with self._changed:
            if job in self._new:
                self._new.remove(job)
                self._jobs.discard(job)
                return
            if job in self._jobs:
                self._cancelled.append(job)
                self._changed.notify()
        with anyio.move_on_after(_STEP_LIMIT_S, shield=True):
            await job.ended()

    async def aclose(self) -> None:
        """Cancel all jobs and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._thread.join, _STEP_LIMIT_S)

    def _serve(self) -> None:
        try:
            self._worker.prepare()
            while self._take_up():
                ended = self._worker.step()
                self._outbox.flush()
                if ended:
                    self._let_go(ended)
            for job in self._jobs.difference(self._new):
                self._worker.cancel(job)
            self._end_all(Closed("engine"))
        except BaseException as error:  # such as a panic in a library: nobody shall wait for ever
            logger.critical("the engine of %r has stopped", self._name, exc_info=True)
            self._end_all(EngineFailed(self._name, f"it has stopped ({type(error).__name__})"))

    def _end_all(self, error: AgentbusError) -> None:
        """End all jobs; later ones are refused."""
        with self._changed:
            self._closed = True
            jobs = list(self._jobs)
        for job in jobs:
            job.post(error)
            self._end(job)
        self._outbox.flush()

    def _let_go(self, ended: list[Job]) -> None:
        time.sleep(_YIELD_S)
        for job in ended:
            self._worker.end(job)
            self._end(job)
        self._outbox.flush()

    def _take_up(self) -> bool:
        """Wait until there is something to do, and take it up; False when the driver is closed."""
        with self._changed:
            rests = False
            while not (self._jobs or self._closed):
                if not self._changed.wait(None if rests else _REST_S):
                    self._worker.rest()
                    rests = True
            if self._closed:
                return False
            new, self._new = self._new, []
            cancelled, self._cancelled = self._cancelled, []
        for job in new:
            if not self._worker.begin(job):
                self._end(job)
        for job in cancelled:
            if job in self._jobs:
                self._worker.cancel(job)
                self._end(job)
        self._outbox.flush()
        return True

    def _end(self, job: Job) -> None:
        self._jobs.discard(job)
        job.end()
