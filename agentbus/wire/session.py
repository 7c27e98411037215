"""One peer of one link, without I/O: which envelope may come when, and what opens and ends a link.

Each side sends HELLO first, then what it likes, and GOODBYE last. A side that gives up on its peer
says why in an ERROR of id 0, its farewell. A PING is answered with a PONG. All these, and RELEASE,
end here; what belongs to requests is passed on, and pairing replies with requests is the business
of who made them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgpack

from ..config import Limits
from ..errors import (
    AgentbusError,
    Closed,
    ConfigError,
    MalformedFrame,
    UnexpectedFrame,
    VersionMismatch,
)
from ..messages import Envelope, Kind
from ..names import MAX_NAME_LENGTH
from .codec import Buffer, Decoder, Encoder, unpack
from .failures import failure_envelope, read_failure
from .shared import NO_SHARING, SharedPayloads
from .version import PROTOCOL_VERSION

__all__ = ["Hello", "Session", "State"]

_MAX_LISTEN = 1024
_MAX_HELLO_ITEMS = 16
"""Room for what later versions add, so that their version can still be read."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What a process tells a peer about itself, before anything else.

    Raises:
        ConfigError: a field is not printable or too long.
    """

    peer: str
    """The process, unique on the bus: 1 to 128 printable ASCII characters."""
    listen: str = ""
    """Path of the socket where it accepts direct links, or empty."""

    def __post_init__(self) -> None:
        problem = _problem_of_hello(self.peer, self.listen)
        if problem:
            raise ConfigError("hello", problem)


def _problem_of_hello(peer: object, listen: object) -> str:
    if type(peer) is not str or not 0 < len(peer) <= MAX_NAME_LENGTH:
        return f"a process id is 1 to {MAX_NAME_LENGTH} characters"
    if not (peer.isascii() and peer.isprintable()):
        return "a process id is printable ASCII"
    if type(listen) is not str or len(listen) > _MAX_LISTEN or not listen.isprintable():
        return f"a socket path is at most {_MAX_LISTEN} printable characters"
    return ""


def _read_hello(envelope: Envelope) -> Hello:
    if len(envelope.payloads) != 1:
        raise MalformedFrame("a HELLO has one payload frame")
    fields = unpack(envelope.payloads[0], text=4 * _MAX_LISTEN, items=_MAX_HELLO_ITEMS)
    if type(fields) is not tuple or not fields or type(fields[0]) is not int:
        raise MalformedFrame("a HELLO begins with the protocol's version")
    if fields[0] != PROTOCOL_VERSION:
        raise VersionMismatch(theirs=fields[0], ours=PROTOCOL_VERSION)
    if len(fields) != 3:
        raise MalformedFrame("a HELLO is version, process id and socket path")
    _, peer, listen = fields
    problem = _problem_of_hello(peer, listen)
    if problem:
        raise MalformedFrame(f"HELLO: {problem}")
    return Hello(peer, listen)


class State(StrEnum):
    """How far the peer has come, as far as its bytes have been read."""

    OPENING = "opening"
    OPEN = "open"
    CLOSED = "closed"
    """The peer said GOODBYE."""
    FAILED = "failed"
    """The peer broke the protocol."""
    REFUSED = "refused"
    """The peer gave up on this side and said why."""


# An enum's member costs 0.2 µs to look up on Python 3.11, and these are for every envelope.
_HELLO = Kind.HELLO
_REQUEST = Kind.REQUEST
_REQUESTS = Kind.REQUESTS
_REPLY = Kind.REPLY
_ERROR = Kind.ERROR
_GOODBYE = Kind.GOODBYE
_PING = Kind.PING
_PONG = Kind.PONG
_RELEASE = Kind.RELEASE
_OF_THE_LINK = frozenset([_HELLO, _GOODBYE, _PING, _PONG, _RELEASE])
_OPEN = State.OPEN


class Session:
    """The protocol of one link, bytes in and envelopes out, for one of its two sides."""

    __slots__ = (
        "_closing",
        "_decoder",
        "_encode",
        "_hello",
        "_last",
        "_shared",
        "error",
        "peer",
        "pong_due",
        "state",
    )

    def __init__(self, hello: Hello, limits: Limits, shared: SharedPayloads = NO_SHARING) -> None:
        self._hello = hello
        self._shared = shared
        self._encode = Encoder(limits).encode
        self._decoder = Decoder(limits, shared.resolve)
        self._last = 0
        """Id of the peer's latest request."""
        self._closing = False
        self.state = State.OPENING
        self.peer: Hello | None = None
        """What the peer said about itself; None before it did."""
        self.error: AgentbusError | None = None
        """Why the session ended, if FAILED or REFUSED."""
        self.pong_due = False
        """The peer asked whether this side is there: send `pong`. However often it asked since, one
        answer is enough."""

    def opening(self) -> bytes:
        """Return the bytes to send first."""
        fields = msgpack.packb((PROTOCOL_VERSION, self._hello.peer, self._hello.listen))
        return b"".join(self._encode(Envelope(Kind.HELLO, payloads=(fields,))))

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
            if envelope.id <= self._last:
                raise MalformedFrame(f"request {envelope.id} came after request {self._last}")
            # One payload of joined requests says what is each one's own.
            more = len(envelope.payloads) - 2 if kind is _REQUESTS else 0
            self._last = envelope.id + max(0, more)
            return True
        return kind not in _OF_THE_LINK or self._take(envelope)

    def _take(self, envelope: Envelope) -> bool:
        """Take what concerns the link alone; nothing of it is passed on."""
        kind = envelope.kind
        if kind is _HELLO:
            raise UnexpectedFrame(kind.name, self.state)
        if kind is _GOODBYE:
            self.state = State.CLOSED
        elif kind is _RELEASE:
            self._shared.released(envelope.id)
        else:
            self.pong_due |= kind is _PING
        return False

    def _open(self, envelope: Envelope) -> None:
        if self.state is not State.OPENING or envelope.kind is not Kind.HELLO:
            raise UnexpectedFrame(envelope.kind.name, self.state)
        self.peer = _read_hello(envelope)
        self.state = State.OPEN
