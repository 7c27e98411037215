"""What a process tells a peer about itself, before anything else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgpack

from ..errors import ConfigError, MalformedFrame, VersionMismatch
from ..messages import Envelope, Kind
from ..names import MAX_NAME_LENGTH
from .codec import unpack
from .version import PROTOCOL_VERSION

__all__ = ["TICKET_SIZE", "Hello", "hello_envelope", "read_hello"]

TICKET_SIZE: Final = 16
_GATE_SIZE: Final = 24
_MAX_LISTEN: Final = 1024
_MAX_RESUME_MS: Final = 24 * 3600 * 1000
_MAX_HELLO_ITEMS: Final = 16
"""Room for what later versions add, so that their version can still be read."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What a process says about itself.

    Raises:
        ConfigError: a field is not printable, too long or out of range.
    """

    peer: str
    """The process, unique on the bus: 1 to 128 printable ASCII characters."""
    listen: str = ""
    """Path of the socket where it accepts direct links, or empty."""
    resume_ms: int = 0
    """How long it keeps a link whose connection broke, in milliseconds; 0 for not at all."""
    ticket: bytes = field(default=b"", repr=False)
    """From the side that accepts: 16 bytes, known to the two processes alone, with which the other
    resumes the link."""
    gate: bytes = field(default=b"", repr=False, compare=False)
    """Empty, or 24 bytes by which a process of the same host finds out whether it may read and write
    this one's memory. Who tells of one, and is told of one, is sent an OFFER."""

    def __post_init__(self) -> None:
        problem = _problem(self.peer, self.listen, self.resume_ms, self.ticket, self.gate)
        if problem:
            raise ConfigError("hello", problem)


def _problem(peer: object, listen: object, resume_ms: object, ticket: object, gate: object) -> str:
    if type(peer) is not str or not 0 < len(peer) <= MAX_NAME_LENGTH:
        return f"a process id is 1 to {MAX_NAME_LENGTH} characters"
    if not (peer.isascii() and peer.isprintable()):
        return "a process id is printable ASCII"
    if type(listen) is not str or len(listen) > _MAX_LISTEN or not listen.isprintable():
        return f"a socket path is at most {_MAX_LISTEN} printable characters"
    if type(resume_ms) is not int or not 0 <= resume_ms <= _MAX_RESUME_MS:
        return f"a link is kept for 0 to {_MAX_RESUME_MS} ms"
    if type(ticket) is not bytes or len(ticket) not in (0, TICKET_SIZE):
        return f"a ticket is {TICKET_SIZE} bytes"
    if type(gate) is not bytes or len(gate) not in (0, _GATE_SIZE):
        return f"a gate is {_GATE_SIZE} bytes"
    return ""


def hello_envelope(hello: Hello) -> Envelope:
    """Return the envelope that says it."""
    about = (hello.peer, hello.listen, hello.resume_ms, hello.ticket, hello.gate)
    return Envelope(Kind.HELLO, payloads=(msgpack.packb((PROTOCOL_VERSION, *about)),))


def read_hello(envelope: Envelope) -> Hello:
    """Return what a HELLO says.

    Raises:
        VersionMismatch: the peer speaks another version.
        MalformedFrame: it says something else than this version does.
    """
    if len(envelope.payloads) != 1:
        raise MalformedFrame("a HELLO has one payload frame")
    fields = unpack(envelope.payloads[0], text=4 * _MAX_LISTEN, items=_MAX_HELLO_ITEMS)
    if type(fields) is not tuple or not fields or type(fields[0]) is not int:
        raise MalformedFrame("a HELLO begins with the protocol's version")
    if fields[0] != PROTOCOL_VERSION:
        raise VersionMismatch(theirs=fields[0], ours=PROTOCOL_VERSION)
    if len(fields) != 6:
        problem = "version, process, socket path, time to resume, ticket and gate"
        raise MalformedFrame(f"a HELLO is {problem}")
    about = fields[1:]
    problem = _problem(*about)
    if problem:
        raise MalformedFrame(f"HELLO: {problem}")
    return Hello(*about)
