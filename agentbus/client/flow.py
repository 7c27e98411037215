"""Flow of one stream of parts: who reads gives credit, who writes waits for it.

Credit is counted in parts. A stream begins with as much as its reader said, and gets more as parts
are read, half a window at a time after the first: a slow reader holds up its own writer and nobody else, and what
waits is bounded on both sides.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..errors import AgentbusError, Closed, MalformedFrame

__all__ = ["MAX_CREDIT", "Inflow", "Outflow"]

MAX_CREDIT: Final = 1 << 20
"""Largest credit that a peer may give for one stream, in parts."""


class Inflow:
    """The reader's end: parts that have come and wait for one reader."""

    __slots__ = (
        "_ended",
        "_error",
        "_grant",
        "_grant_at",
        "_half",
        "_loop",
        "_parts",
        "_read",
        "_room",
        "_waiter",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        window: int,
        grant: Callable[[int], None],
        number: int = 0,
    ) -> None:
        self._loop = loop
        self._half = half = (window + 1) // 2
        # Streams that began together and are written in step, as those of an engine that decodes in
        # batches, do not all give credit at the same part.
        self._grant_at = 1 + number % half if number else half
        """Parts read since the last grant at which the next one is due."""
        self._grant = grant
        """Called with a number of parts that may come in addition."""
        self._room = window
        self._read = 0
        """Parts read since the last grant."""
        self._parts: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._error: AgentbusError | None = None

    @property
    def room(self) -> int:
        """Parts that may still come before the reader reads more."""
        return self._room

    def spend(self, count: int) -> None:
        """Count parts that have come, before they are decoded.

        Raises:
            MalformedFrame: they are more than was asked for.
        """
        self._room -= count
        if self._room < 0:
            raise MalformedFrame(f"{-self._room} parts of a stream came that nobody asked for")

    def put(self, values: Sequence[Any]) -> None:
        """Keep parts for the reader, whose credit they were counted against."""
        self._parts.extend(values)
        self._wake()

    def end(self, error: AgentbusError | None = None) -> None:
        """Say that nothing more will come; the reader gets `error` behind what has come."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._wake()

    def __aiter__(self) -> Inflow:
        return self

    async def __anext__(self) -> Any:
        """Return the next part.

        Raises:
            StopAsyncIteration: the stream has ended and all parts are read.
            AgentbusError: it has ended with this error.
        """
        parts = self._parts
        while not parts:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            if self._waiter is not None and not self._waiter.done():
                raise Closed("stream for a second reader (read it through tee)")
            waiter = self._waiter = self._loop.create_future()
            await waiter
        self._read += 1
        if self._read >= self._grant_at and not self._ended:
            count, self._read, self._grant_at = self._read, 0, self._half
            self._room += count
            self._grant(count)
        return parts.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Outflow:
    """The writer's end: passes parts to `write` and counts the credit that is left."""

    __slots__ = ("_closed", "_credit", "_loop", "_waiter", "_write")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, credit: int, write: Callable[[Any], None]
    ) -> None:
        self._loop = loop
        self._credit = credit
        self._write = write
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    @property
    def credit(self) -> int:
        """Parts that may be passed on now."""
        return max(0, self._credit)

    def spend(self, count: int) -> None:
        """Count parts that somebody else has passed on."""
        self._credit -= count

    def push(self, value: Any) -> bool:
        """Pass one part on. Returns whether another may follow; if not, await `writable` first."""
        if self._closed:
            return True
        self._credit -= 1
        self._write(value)
        return self._credit > 0

    async def writable(self) -> None:
        """Wait until there is credit, or until the stream is closed."""
        while self._credit <= 0 and not self._closed:
            if self._waiter is None or self._waiter.done():
                self._waiter = self._loop.create_future()
            await asyncio.shield(self._waiter)  # others may wait for it, too

    def grant(self, count: int) -> None:
        """Take more credit.

        Raises:
            MalformedFrame: the sum is more than any stream may have.
        """
        self._credit += count
        if self._credit > MAX_CREDIT:
            raise MalformedFrame(f"a credit of {self._credit} parts is over {MAX_CREDIT}")
        self._wake()

    def close(self) -> None:
        """Let go of a writer that waits; what is pushed from here on is dropped."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
