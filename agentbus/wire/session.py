"""One peer of one link, without I/O: which envelope may come when, and what opens and ends a link.

Each side sends HELLO first, then what it likes, and GOODBYE last. A side that gives up on its peer
says why in an ERROR of id 0, its farewell. A PING is answered with a PONG. All these, RELEASE,
OFFER and ACK end here; what belongs to requests is passed on, and pairing replies with requests is
the business of who made them. In the place of HELLO a RESUME may come: `resume` says which link is
to go on over this connection.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from ..config import Limits
from ..errors import (
    AgentbusError,
    Closed,
    MalformedFrame,
    UnexpectedFrame,
)
from ..messages import Envelope, Kind
from .codec import Buffer, Decoder, Encoder
from .failures import failure_envelope, read_failure
from .hello import Hello, hello_envelope, read_hello
from .resume import Resume, read_resume
from .shared import NO_SHARING, SharedPayloads

__all__ = ["Session", "State"]


class State(StrEnum):
    """How far the peer has come, as far as its bytes have been read."""

    OPENING = "opening"
    OPEN = "open"
    RESUMING = "resuming"
    """The peer goes on with another link."""
    CLOSED = "closed"
    """The peer said GOODBYE."""
    FAILED = "failed"
    """The peer broke the protocol."""
    REFUSED = "refused"
    """The peer gave up on this side and said why."""


# An enum's member costs 0.2 µs to look up on Python 3.11, and these are for every envelope.
_HELLO: Final = Kind.HELLO
_REQUEST: Final = Kind.REQUEST
_REQUESTS: Final = Kind.REQUESTS
_REPLY: Final = Kind.REPLY
_ERROR: Final = Kind.ERROR
_GOODBYE: Final = Kind.GOODBYE
_PING: Final = Kind.PING
_PONG: Final = Kind.PONG
_RELEASE: Final = Kind.RELEASE
_ACK: Final = Kind.ACK
_OFFER: Final = Kind.OFFER
_OF_THE_LINK: Final = frozenset(
    [_HELLO, _GOODBYE, _PING, _PONG, _RELEASE, _ACK, Kind.RESUME, _OFFER]
)
_OPEN: Final = State.OPEN


class Session:
    """The protocol of one link, bytes in and envelopes out, for one of its two sides."""

    __slots__ = (
        "_closing",
        "_decoder",
        "_encode",
        "_hello",
        "_shared",
        "acknowledged",
        "due",
        "error",
        "last_request",
        "peer",
        "pong_due",
        "resume",
        "state",
    )

    def __init__(self, hello: Hello, limits: Limits, shared: SharedPayloads = NO_SHARING) -> None:
        self._hello = hello
        self._shared = shared
        self._encode = Encoder(limits).encode
        self._decoder = Decoder(limits, shared.resolve)
        self.last_request = 0
        """Id of the peer's latest request."""
        self.acknowledged = 0
        """Bytes of this side's stream of which the peer says that they have come. What was sent is
        the link's business, and so is whether that can be."""
        self.resume: Resume | None = None
        """What the peer wants to go on with, if RESUMING."""
        self._closing = False
        self.state = State.OPENING
        self.peer: Hello | None = None
        """What the peer said about itself; None before it did."""
        self.error: AgentbusError | None = None
        """Why the session ended, if FAILED or REFUSED."""
        self.due = False
        """There is an ACK or a PING to heed; whoever does so resets it."""
        self.pong_due = False
        """The peer asked whether this side is there: send `pong`. However often it asked since, one
        answer is enough."""

    def opening(self) -> bytes:
        """Return the bytes to send first."""
        return b"".join(self._encode(hello_envelope(self._hello)))

    def send(self, envelope: Envelope) -> list[Buffer]:
        """Return the buffers to send, in order, for one envelope.

        Raises:
            Closed: this side said GOODBYE or its farewell.
            TooLarge, InvalidName, InvalidMessage: see `Encoder.encode`.
        """
        if self._closing:
            raise Closed("link")
        return self._encode(envelope)

    def closing(self) -> bytes:
        """Return the bytes to send last. After them nothing can be sent."""
        self._closing = True
        return b"".join(self._encode(Envelope(Kind.GOODBYE)))

    def ping(self) -> bytes:
        """Return the bytes that ask the peer for a sign of life."""
        return b"".join(self._encode(Envelope(_PING)))

    def pong(self) -> bytes:
        """Return the bytes that answer the peer's PINGs."""
        self.pong_due = False
        return b"".join(self._encode(Envelope(_PONG)))

    def ack(self, received: int) -> bytes:
        """Return the bytes that acknowledge the first `received` bytes of the peer's stream."""
        return b"".join(self._encode(Envelope(_ACK, received)))

    def farewell(self, error: AgentbusError) -> bytes:
        """Return the bytes that tell the peer why this side gives up on it; they are the last."""
        self._closing = True
        return b"".join(self._encode(failure_envelope(0, error)))

    def receive(self, data: bytes | bytearray | memoryview) -> list[Envelope]:
        """Return the envelopes that `data` completes, without those that end here.

        As in `Decoder.feed`, an error behind good envelopes stands in `error` and is raised by the
        next call.

        Raises:
            ProtocolError: the peer broke the protocol; the state is FAILED.
            AgentbusError: the peer's own reason, from its farewell; the state is REFUSED.
        """
        if self.error is not None:
            raise self.error
        accepted: list[Envelope] = []
        try:
            for envelope in self._decoder.feed(data):
                # A reply changes nothing here, so it is spared the call.
                if (envelope.kind is _REPLY and self.state is _OPEN) or self._admit(envelope):
                    accepted.append(envelope)  # noqa: PERF401 - keeps what stands before an error
            if self._decoder.error is not None:
                raise self._decoder.error
        except AgentbusError as error:
            self.error = error
            if self.state is not State.REFUSED:
                self.state = State.FAILED
            if not accepted:
                raise
        return accepted

    def _admit(self, envelope: Envelope) -> bool:
        """Say whether the envelope is to be passed on, after it took its effect here."""
        kind = envelope.kind
        if kind is _ERROR and envelope.id == 0:
            error = read_failure(envelope)
            self.state = State.REFUSED
            raise error
        if self.state is not _OPEN:
            self._open(envelope)
            return False
        if kind is _REQUEST or kind is _REQUESTS:
            if envelope.id <= self.last_request:
                last = self.last_request
                raise MalformedFrame(f"request {envelope.id} came after request {last}")
            # One payload of joined requests says what is each one's own.
            more = len(envelope.payloads) - 2 if kind is _REQUESTS else 0
            self.last_request = envelope.id + max(0, more)
            return True
        return kind not in _OF_THE_LINK or self._take(envelope)

    def _take(self, envelope: Envelope) -> bool:
        """Take what concerns the link alone; nothing of it is passed on."""
        kind = envelope.kind
        if kind is _ACK:
            if envelope.id < self.acknowledged:
                raise MalformedFrame(f"an ACK of {envelope.id} after {self.acknowledged} bytes")
            self.acknowledged = envelope.id
            self.due = True
        elif kind is _GOODBYE:
            self.state = State.CLOSED
        elif kind is _RELEASE:
            self._shared.released(envelope.id)
        elif kind is _OFFER:
            self._shared.offered(envelope.id, envelope.credit)
        elif kind is _HELLO or kind is Kind.RESUME:
            raise UnexpectedFrame(kind.name, self.state)
        else:
            self.pong_due |= kind is _PING
            self.due |= self.pong_due
        return False

    def _open(self, envelope: Envelope) -> None:
        if self.state is State.OPENING and envelope.kind is _HELLO:
            self.peer = read_hello(envelope)
            self.state = _OPEN
        elif self.state is State.OPENING and envelope.kind is Kind.RESUME:
            self.resume = read_resume(envelope)
            self.state = State.RESUMING
        else:
            raise UnexpectedFrame(envelope.kind.name, self.state)
