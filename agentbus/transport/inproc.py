"""Links between two owners in one loop that go through the real codec and sessions.

For tests, and for running a bus as if its agents were apart. Agents that merely share a loop need
no link: the client passes them the object.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from ..config import Limits
from ..errors import AgentbusError
from ..wire import Buffer, Hello
from .base import Link, LinkOwner
from .link import StreamLink

__all__ = ["memory_pair"]


class _MemoryTransport(asyncio.Transport):
    """One direction of a stream in memory: delivers to `reader` in later ticks of the loop."""

    def __init__(self, writer: StreamLink, reader: StreamLink) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._writer = writer
        self._reader = reader
        self._other: _MemoryTransport | None = None
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._high = 0
        self._paused = False
        self._closing = False
        self._lost = False

    def join(self, other: _MemoryTransport) -> None:
        """Make `other` the way back."""
        self._other = other

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high or 0

    def get_write_buffer_size(self) -> int:
        return self._buffered

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: Buffer | bytearray) -> None:
        if self._closing:
            return
        self._chunks.append(bytes(data))
        self._buffered += len(data)
        self._loop.call_soon(self.deliver)
        if self._buffered > self._high and not self._paused:
            self._paused = True
            self._writer.pause_writing()

    def writelines(self, list_of_data: Iterable[Buffer | bytearray]) -> None:
        self.write(b"".join(list_of_data))

    def deliver(self) -> None:
        """Hand over what was written, as one read of a socket would."""
        if self._chunks:
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._buffered = 0
            if self._other is not None and not self._other.is_closing():
                self._reader.data_received(data)
        if self._paused:
            self._paused = False
            self._writer.resume_writing()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._lose)

    def abort(self) -> None:
        self._chunks.clear()
        self._buffered = 0
        self.close()

    def _lose(self) -> None:
        if self._lost:
            return
        self._lost = True
        self.deliver()
        self._writer.connection_lost(None)
        if self._other is not None:
            self._other.close()


def memory_pair(
    owner_a: LinkOwner, hello_a: Hello, owner_b: LinkOwner, hello_b: Hello, limits: Limits
) -> tuple[Link, Link]:
    """Return the two ends of one link, open on return; call it within the running loop.

    Args:
        owner_a: owns the first link returned; its peer is `hello_b`.
        hello_a: what the first side says about itself.
        owner_b: owns the second link.
        hello_b: what the second side says about itself.
        limits: of both sides.
    """
    link_a = StreamLink(owner_a, hello_a, limits, _settled)
    link_b = StreamLink(owner_b, hello_b, limits, _settled)
    a_to_b = _MemoryTransport(link_a, link_b)
    b_to_a = _MemoryTransport(link_b, link_a)
    a_to_b.join(b_to_a)
    b_to_a.join(a_to_b)
    link_a.connection_made(a_to_b)
    link_b.connection_made(b_to_a)
    for link, transport in ((link_a, a_to_b), (link_b, b_to_a)):
        link.flush()
        transport.deliver()
    return link_a, link_b


def _settled(error: AgentbusError | None) -> None:
    """Nobody waits for the opening: it is over before `memory_pair` returns."""
