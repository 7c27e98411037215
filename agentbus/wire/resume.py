"""How a link outlives its connection, without I/O.

A link is one stream of bytes in each direction, from HELLO to GOODBYE; a connection carries a piece
of it. Both sides count what they sent and what came, and keep what the other has not acknowledged.
When a connection breaks, the side that had made it makes another, waits for the HELLO of the process
that it knows, and says RESUME: the ticket from that one's first HELLO, and how many bytes have come.
The other answers with its own count. Each then sends what the other lacks, from that very byte on,
so that nothing is lost and nothing comes twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgpack

from ..config import Limits
from ..errors import MalformedFrame, PeerLost, UnexpectedFrame
from ..messages import Envelope, Kind
from .codec import Buffer, Decoder, encode, unpack
from .failures import read_failure
from .hello import TICKET_SIZE, Hello, read_hello

__all__ = ["ACK_EVERY", "Backoff", "Resume", "Resumption", "Unacknowledged", "read_resume"]

ACK_EVERY: Final = 64 * 1024
"""Bytes that come before they are acknowledged; an idle link keeps as many in each direction."""
_MAX_OPENING: Final = 16 * 1024
"""Longest frame in front of a stream that goes on, in bytes."""
_SIZE: Final = 4
"""Bytes that say how long a frame is, without them."""
_MAX_COUNT: Final = 2**63 - 1


class Backoff:
    """How long to wait before each try: twice as long each time."""

    __slots__ = ("_ceiling", "_due")

    def __init__(self, first: float = 0.01, ceiling: float = 1.0) -> None:
        """Begin anew.

        Args:
            first: seconds before the first try, at most.
            ceiling: seconds before any try, at most.
        """
        self._due = first
        self._ceiling = ceiling

    def delay(self, random: float) -> float:
        """Return seconds to wait before the next try: from half of what is due on, by `random`.

        Args:
            random: from 0 to 1, so that many who lost the same peer do not come back as one.
        """
        due, self._due = self._due, min(self._ceiling, 2 * self._due)
        return due * (0.5 + random / 2)


class Unacknowledged:
    """What was sent and may have to be sent again. Bounded by who adds to it."""

    __slots__ = ("_buffers", "_start", "add", "add_all")

    def __init__(self) -> None:
        self._buffers: deque[Buffer] = deque()
        self._start = 0
        """Place of the first byte here in the stream."""
        self.add = self._buffers.append
        """Keep one buffer, which follows what was added before and must not change."""
        self.add_all = self._buffers.extend

    def acknowledge(self, count: int) -> None:
        """Forget the stream's first `count` bytes.

        Raises:
            MalformedFrame: fewer were sent.
        """
        buffers = self._buffers
        while buffers and self._start + len(buffers[0]) <= count:
            self._start += len(buffers.popleft())
        done = count - self._start
        if done > 0 and not buffers:
            raise MalformedFrame(f"an ACK of {count} bytes, where {self._start} were sent")
        # The short rest of a long buffer would keep it whole, on an idle link for good.
        if done > 0 and len(buffers[0]) - done <= ACK_EVERY < len(buffers[0]):
            buffers[0] = bytes(memoryview(buffers[0])[done:])
            self._start = count

    def since(self, count: int) -> list[Buffer]:
        """Forget the stream's first `count` bytes and return all that follow."""
        self.acknowledge(count)
        buffers = list(self._buffers)
        if buffers:
            buffers[0] = memoryview(buffers[0])[count - self._start :]
        return buffers


@dataclass(frozen=True, slots=True)
class Resume:
    """Goes on with a link, or says that it goes on."""

    received: int
    """Bytes of the stream that have come to the side that says it."""
    ticket: bytes = field(default=b"", repr=False)
    """See `Hello.ticket`; empty in the answer."""

    def encode(self, limits: Limits) -> bytes:
        """Return it as a frame."""
        fields = msgpack.packb((self.ticket, self.received))
        return b"".join(encode(Envelope(Kind.RESUME, payloads=(fields,)), limits))


def read_resume(envelope: Envelope) -> Resume:
    """Return what a RESUME says.

    Raises:
        MalformedFrame: it says something else.
    """
    if len(envelope.payloads) != 1:
        raise MalformedFrame("a RESUME has one payload frame")
    fields = unpack(envelope.payloads[0], text=TICKET_SIZE, items=2)
    if type(fields) is not tuple or tuple(map(type, fields)) != (bytes, int):
        raise MalformedFrame("a RESUME is a ticket and a count")
    ticket, received = fields
    if len(ticket) not in (0, TICKET_SIZE) or not 0 <= received <= _MAX_COUNT:
        raise MalformedFrame("a RESUME is a ticket and a count")
    return Resume(received, ticket)


class Resumption:
    """The connecting side of a new connection, up to where the link goes on.

    Args:
        peer: the process at the link's other end, as its first HELLO told.
        received: returns how many bytes of the link's stream have come.
        limits: bounds on both directions.
    """

    __slots__ = ("_data", "_is_known", "_limits", "_peer", "_received", "answer")

    def __init__(self, peer: Hello, received: Callable[[], int], limits: Limits) -> None:
        self._peer = peer
        self._received = received
        self._limits = limits
        self._data = bytearray()
        self._is_known = False
        self.answer: Resume | None = None
        """What the other side says; behind it the link goes on."""

    def receive(self, data: bytes | bytearray | memoryview) -> bytes:
        """Take what came, and return what is to be sent.

        Raises:
            PeerLost: another process answers.
            ProtocolError: it does not speak this protocol.
            AgentbusError: its reason not to go on with the link.
        """
        self._data += data
        to_send = b""
        while self.answer is None and (envelope := self._next()) is not None:
            if envelope.kind is Kind.ERROR and envelope.id == 0:
                raise read_failure(envelope)
            if self._is_known and envelope.kind is Kind.RESUME:
                self.answer = read_resume(envelope)
            elif not self._is_known and envelope.kind is Kind.HELLO:
                if read_hello(envelope).peer != self._peer.peer:
                    raise PeerLost(self._peer.peer)
                self._is_known = True
                to_send = Resume(self._received(), self._peer.ticket).encode(self._limits)
            else:
                raise UnexpectedFrame(envelope.kind.name, "resuming")
        return to_send

    def rest(self) -> bytes:
        """Return what came behind the answer."""
        return bytes(self._data)

    def _next(self) -> Envelope | None:
        """Take one frame. What follows it may begin amid one, so no more is looked at."""
        if len(self._data) < _SIZE:
            return None
        end = _SIZE + int.from_bytes(self._data[:_SIZE], "big")
        if end > _MAX_OPENING:
            raise MalformedFrame("a long frame where a link is to go on")
        if len(self._data) < end:
            return None
        frame = bytes(self._data[:end])
        del self._data[:end]
        found = Decoder(self._limits).feed(frame)
        if len(found) != 1:
            raise MalformedFrame("a frame that is none")
        return found[0]
