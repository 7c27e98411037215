"""What a transport offers and what it asks of the owner of its links. Owns no mechanism.

A link joins two processes, from the moment both said HELLO. It keeps the order of what is sent, and
loses what is in flight when it is lost; who waits for a reply is the owner's business. It outlives
its connection where both sides say so (`Hello.resume_ms`): while it is broken, what is sent is kept,
and goes on its way when another connection is made. All calls of one link happen in the event loop
that made it.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, Self

from mypy_extensions import mypyc_attr

from ..errors import AgentbusError
from ..messages import Envelope
from ..wire import Buffer, Hello, JoinKey

__all__ = ["TCP_SCHEME", "Link", "LinkOwner", "Listener"]

TCP_SCHEME = "ab://"
"""What begins the url of a process on another host; paths of Unix sockets have none."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Link(asyncio.Protocol):
    """One open connection to one peer."""

    __slots__ = ("broken", "closing", "joins", "key", "paused", "user", "via")

    def __init__(self) -> None:
        self.via = "unix"
        """What carries it, as accounts name it: `unix` or `tcp`."""
        self.user = ""
        """Who connected, as the transport has made sure of: `key:NAME` of an authorised key, or
        `uid:NUMBER`; empty where this side connected, or nobody did."""
        self.key = ""
        """The peer's public key, in Z85; empty where the link has none."""
        self.broken = False
        """Whether its connection broke and another may be made."""
        self.paused = False
        """Whether so much waits for the peer that a sender who can wait should `drain`."""
        self.joins = False
        """Whether something was sent in this turn of the loop already: what follows may be joined,
        and leaves at its end."""
        self.closing = False
        """Whether nothing more is sent or delivered."""

    @property
    def peer(self) -> Hello:
        """What the peer said about itself."""
        raise NotImplementedError

    @property
    def requests_received(self) -> int:
        """Number of the latest request that the peer sent; 0 before the first."""
        raise NotImplementedError

    @property
    def shares_memory(self) -> bool:
        """Whether either side views what the other placed in shared memory."""
        raise NotImplementedError

    @property
    def bytes_sent(self) -> int:
        """Bytes accepted for sending, framing included."""
        raise NotImplementedError

    @property
    def bytes_received(self) -> int:
        """Bytes read, framing included."""
        raise NotImplementedError

    def send(self, envelope: Envelope) -> int:
        """Queue one envelope and return its bytes on the wire; never blocks.

        What is sent within one tick of the loop is written together. Payloads may change
        afterwards: views are copied, large ones into shared memory if the link has it.

        Raises:
            Closed: the link was closed or lost.
            LinkFull: the peer reads too slowly, or holds too much; nothing was sent.
            TooLarge, InvalidName, InvalidMessage: see `wire.Encoder.encode`; nothing was sent.
        """
        raise NotImplementedError

    def join(self, key: JoinKey, number: int, head: bytes, value: Buffer) -> int:
        """Queue a small message to leave with others in one envelope; as `send`.

        Only while `joins`. It keeps its place in the order of all that is sent, but for replies: they
        leave behind what else is joined.

        Args:
            key: what the messages of one envelope have in common.
            number: a request's; 0 for anything else.
            head: what is this one's own, see `wire.batches`.
            value: its packed value.
        """
        raise NotImplementedError

    async def drain(self) -> None:
        """Wait until the link is not paused.

        Raises:
            Closed: the link was closed or lost.
        """
        raise NotImplementedError

    async def aclose(self) -> None:
        """Say GOODBYE, flush, and wait until the peer did the same or a timeout passed.

        Nothing is delivered any more from the call on. If cancelled, the close goes on by itself,
        under the same timeout.
        """
        raise NotImplementedError

    def abort(self) -> None:
        """Drop the link at once, with what waits to be written; the peer is told if it listens."""
        raise NotImplementedError

    async def restore(self) -> None:
        """Make another connection for a link that is broken, if this side had made the first.

        Tries, each time after a longer while, until the link goes on or is over. Call it when the
        owner is told that the link is broken; if it is not called, the link is lost in time.
        """
        raise NotImplementedError


class LinkOwner(Protocol):
    """Is told what happens to its links. Called from the event loop; must not raise."""

    def link_opened(self, link: Link) -> None:
        """Both sides said HELLO. Comes before anything else of this link."""
        ...

    def received(self, link: Link, envelopes: list[Envelope]) -> None:
        """The peer sent envelopes, in this order. Never HELLO, GOODBYE or an ERROR of id 0.

        The list is the owner's, who may empty it.

        Once the link is closing, those that follow are to be passed over.
        """
        ...

    def link_broken(self, link: Link) -> None:
        """The link's connection broke; it goes on over another one, or is lost."""
        ...

    def link_lost(self, link: Link, error: AgentbusError | None) -> None:
        """The link is over: called once for each link that opened, after everything else.

        Args:
            link: the link that is over.
            error: None if either side closed it in order or this side aborted it; `PeerLost` if
                the peer vanished or aborted it; a `ProtocolError` if the peer broke the protocol; else the reason
                that the peer gave for giving up on this side.
        """
        ...


class Listener(Protocol):
    """Accepts links until it is closed; links that opened go on without it."""

    @property
    def path(self) -> str:
        """Where it listens, as peers give it to connect."""
        ...

    @property
    def refused(self) -> int:
        """Connections that ended before they were links."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exception: object) -> None: ...

    async def aclose(self) -> None:
        """Stop accepting and leave nothing behind at `path`."""
        ...
