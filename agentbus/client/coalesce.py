"""Parts of a stream on their way to a link: the first goes at once, what piles up goes together.

A part that comes alone in its turn of the loop leaves in that turn, so that a token is never held
back. Parts that follow within the same turn leave together at its end: one envelope for all of
them costs little more than one for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from ..wire import Buffer, Frames, join_batch
from .payload import PayloadType, payload_type

__all__ = ["Coalescer", "Turns"]

_BATCH_BYTES: Final = 64 * 1024
"""A batch of this size goes without waiting for the end of the turn."""


class Turns:
    """Tells one turn of the loop from the next, for all streams that share it at the cost of one."""

    __slots__ = ("_at_end", "_loop", "_number", "_running")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._number = 0
        self._running = False
        """Whether somebody has asked in this turn already."""
        self._at_end: list[Callable[[], None]] = []

    def now(self) -> int:
        """Return this turn's number, which is over 0."""
        if not self._running:
            self._running = True
            self._number += 1
            self._loop.call_soon(self._ended)
        return self._number

    def at_end(self, do: Callable[[], None]) -> None:
        """Have something done at the end of the turn that `now` has told."""
        self._at_end.append(do)

    def _ended(self) -> None:
        self._running = False
        waiting, self._at_end = self._at_end, []
        for do in waiting:
            do()


class Coalescer:
    """Makes batches of equal type. `send` takes the type and the frames of one batch."""

    __slots__ = ("_frames", "_kind", "_send", "_size", "_turn", "_turns")

    def __init__(self, turns: Turns, send: Callable[[PayloadType, Frames], None]) -> None:
        self._turns = turns
        self._send = send
        self._kind: PayloadType | None = None
        self._frames: list[Buffer] = []
        self._size = 0
        self._turn = 0
        """The last one in which something went at once."""

    def write(self, value: Any) -> None:
        """Send a part, now or at the end of this turn.

        Raises:
            InvalidMessage: it cannot be written.
            AgentbusError: the link does not take it, or what waited before it.
        """
        kind = payload_type(type(value))
        frames = kind.encode(value)
        if len(frames) > 1:  # buffers, which are large, and never copied into a batch
            self.flush()
            self._send(kind, frames)
            return
        if kind is not self._kind:
            self.flush()
            self._kind = kind
        self._frames.append(frames[0])
        self._size += len(frames[0])
        turn = self._turns.now()
        if turn != self._turn:
            self._turn = turn
            self.flush()
        elif self._size >= _BATCH_BYTES:
            self.flush()
        elif len(self._frames) == 1:
            self._turns.at_end(self.flush)

    def flush(self) -> None:
        """Send what waits."""
        if self._frames and self._kind is not None:
            frames, self._frames, self._size = self._frames, [], 0
            self._send(self._kind, (join_batch(frames),))
