"""A stream of bytes as ZeroMQ messages: what `StreamLink` takes for a loop's own transport.

Every message is a piece of the stream, cut where it suits; an empty one ends it. How a piece gets
to the peer is the carrier's business, and what has no room there yet waits here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Protocol, cast

from .zmq_io import CHUNK, Data, PeerGone

__all__ = ["END", "OPEN", "Carrier", "MessageStream"]

OPEN = b"agentbus"
"""The connecting side's first message; no frame begins like this."""
END = b""
"""Either side's last message."""
_RETRY = 0.01
"""Seconds until what had no room is tried again, if no event of the socket comes before: the one
that tells of room may be swallowed where the socket is looked at for reading."""


class Carrier(Protocol):
    """Takes one stream's messages to its peer."""

    def send(self, data: Data) -> bool:
        """Send one message and say whether there was room for it.

        Raises:
            PeerGone: there is nobody to send to.
        """
        ...

    def release(self, *, flushed: bool) -> None:
        """The stream is over: tell the peer; if `flushed`, see that it gets all."""
        ...


class MessageStream(asyncio.Transport):
    """Implements what `StreamLink` uses of a transport.

    The first write within a tick of the loop goes at once, what follows is joined at its end: a
    message for each would cost the rate, waiting for the end would cost a single message time.
    """

    def __init__(self, link: asyncio.Protocol, carrier: Carrier) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._link = link
        self._carrier = carrier
        self._chunks: deque[Data] = deque()
        self._buffered = 0
        self._high = 0
        self._paused = False
        self._in_tick = False
        """Something was written within this tick."""
        self._retry: asyncio.TimerHandle | None = None
        self._closing = False
        self._ended = False

    # --- asyncio.Transport

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._link

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._link = cast(asyncio.Protocol, protocol)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high or 0

    def get_write_buffer_size(self) -> int:
        return self._buffered

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: Data) -> None:
        if self._closing:
            return
        if not self._in_tick:
            self._in_tick = True
            self._loop.call_soon(self._end_tick)
            if not self._chunks and len(data) <= CHUNK and self._send(data):
                return
        self._push(data)

    def writelines(self, list_of_data: Iterable[Data]) -> None:
        for data in list_of_data:
            self.write(data)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self.flush()

    def abort(self) -> None:
        self._finish(flushed=False)

    # --- the carrier's side

    def feed(self, data: bytes) -> None:
        """Take one message of the peer's."""
        if not self._ended:
            if data == END:
                self.abort()
            else:
                self._link.data_received(data)

    def flush(self) -> None:
        """Send what waits, as far as there is room."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        while self._chunks and not self._ended:
            data = self._pop()
            if not self._send(data):
                self._chunks.appendleft(data)
                self._buffered += len(data)
                self._retry = self._loop.call_later(_RETRY, self.flush)
                break
        if self._closing and not self._chunks:
            self._finish(flushed=True)
        elif self._paused and self._buffered <= self._high // 4:
            self._paused = False
            self._link.resume_writing()

    def _end_tick(self) -> None:
        self._in_tick = False
        if self._chunks:
            self.flush()

    def _send(self, data: Data) -> bool:
        """Send one message; one to nobody counts as sent, and the stream is about to end."""
        try:
            return self._carrier.send(data)
        except PeerGone:
            self._loop.call_soon(self.abort)
            return True

    def _push(self, data: Data) -> None:
        if len(data) <= CHUNK:
            self._chunks.append(data)
        else:
            view = memoryview(data)
            self._chunks.extend(view[at : at + CHUNK] for at in range(0, len(data), CHUNK))
        self._buffered += len(data)
        if self._buffered > self._high and not self._paused:
            self._paused = True
            self._link.pause_writing()

    def _pop(self) -> Data:
        """Take the next message's bytes: small pieces joined, large ones as they are."""
        chunks = [self._chunks.popleft()]
        size = len(chunks[0])
        while self._chunks and size + len(self._chunks[0]) <= CHUNK:
            size += len(self._chunks[0])
            chunks.append(self._chunks.popleft())
        self._buffered -= size
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _finish(self, *, flushed: bool) -> None:
        if self._ended:
            return
        self._closing = self._ended = True
        self._chunks.clear()
        self._buffered = 0
        if self._retry is not None:
            self._retry.cancel()
        self._carrier.release(flushed=flushed)
        self._loop.call_soon(self._tell_lost)

    def _tell_lost(self) -> None:
        self._link.connection_lost(None)
