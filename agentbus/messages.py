"""The envelope: what one process sends another, before it is bytes and after.

Within a process no envelope is made; objects are passed. Values here are slotted and unfrozen,
since one is built for every message that crosses a link (ten frozen fields cost 2 µs, unfrozen 0.4).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

__all__ = ["Envelope", "Kind"]


class Kind(IntEnum):
    """What an envelope is for. The numbers are the wire's; they are never reused."""

    HELLO = 1
    """First envelope on a link, in both directions."""
    REQUEST = 2
    """Asks `target` for one reply, with parts before it if `credit` is given."""
    REPLY = 3
    """Ends the request `id`."""
    ERROR = 4
    """Ends the request `id` with a typed error: schema is its code, the payload its fields."""
    PART = 5
    """Parts of the streamed reply to request `id`, as an array of values of one type."""
    CANCEL = 6
    """The caller no longer wants a reply to request `id`."""
    PUBLISH = 7
    """Values for whoever subscribed to the topic in `target`, as an array like those of PART."""
    WANT = 8
    """The receiver of request or reply `id` lacks the context it refers to."""
    HAVE = 9
    """Answers WANT with what the receiver lacks of the context."""
    GOODBYE = 10
    """Last envelope of an orderly close."""
    CREDIT = 11
    """More parts of the stream that belongs to request `id` are welcome: schema is PART for the
    reply's stream, FEED for the request's."""
    PING = 12
    """Asks whether the peer is still there, where the transport cannot tell."""
    PONG = 13
    """Answers PING."""
    RELEASE = 14
    """The receiver of payload `id` in shared memory views it no longer."""
    ACCEPT = 16
    """With a `target`: say when request `id` is in that agent's mailbox. Without: it is."""
    HANDOFF = 17
    """From the callee: ask `target` to answer request `id` instead. Back, without a target: that
    one has accepted, and the callee is released; or it has not, with an error as in ERROR."""
    REQUESTS = 18
    """Several requests without context, from `id` on: all that they share stands in the header,
    the first payload says what is each one's own, the others are their values."""
    REPLIES = 19
    """Several replies of one type without context, likewise."""
    PARTS = 23
    """Parts of several streamed replies of one type: the first payload says whose each is, the
    others are arrays like those of PART."""
    FEED = 15
    """Parts of the stream that goes with request `id`, from the caller; without a payload its
    end."""
    ACK = 20
    """So many bytes, `id`, of the link's stream have come: they need not be kept to be sent again."""
    RESUME = 21
    """Instead of HELLO, from the side that connects: goes on with a link whose connection broke.
    Answered with the same; behind it the stream goes on where the other side says."""
    OFFER = 22
    """Once, behind HELLO, to who told of a gate: the receiver may write large payloads into the
    sender's memory, from address `id` on, as many bytes as `credit` says, which may be 0."""


@dataclass(slots=True)
class Envelope:
    """Header and payload frames of one message on one link."""

    kind: Kind
    id: int = 0
    """The request that this belongs to, unique among its sender's requests on the link."""
    source: str = ""
    """The sending agent's address; empty for a bus client."""
    target: str = ""
    """The receiving agent's address, or a topic."""
    schema: str = ""
    """Name of the payload's type; an error's code in ERROR."""
    credit: int = 0
    """In REQUEST and CREDIT: how many parts of a stream the sender takes, or takes in addition. A
    request without credit takes no parts."""
    remaining_us: int = -1
    """Time left until the deadline; -1 for none. Never a wall-clock time."""
    hops_left: int = 0
    trace: bytes = b""
    """16 bytes of trace id and 8 of the parent span, or empty."""
    context: bytes = b""
    """A packed context delta, or empty."""
    payloads: tuple[Any, ...] = ()
    """Each `bytes` or `memoryview`, or between link and codec a reference to shared memory."""
    size: int = field(default=0, compare=False)
    """Bytes on the wire, framing included; set by whoever decoded it."""
    budget: tuple[int, int] | None = None
    """Tokens and billionths of a unit of cost: in REQUEST and HANDOFF what may be spent, in REPLY and
    ERROR what was. None for requests without a budget."""
