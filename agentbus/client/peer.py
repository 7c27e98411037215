"""Another process: the link to it, and the requests under way on that link in both directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import AgentbusError
from ..messages import Envelope, Kind
from ..transport import Link
from ..wire import Frames
from .busy_poll import BusyPoll
from .coalesce import Coalescer, Turns
from .contexts import ContextExchange, PeerContexts
from .deadlines import DeadlineTimer
from .exchange import Pending
from .feed import FeedSink
from .payload import PayloadType
from .roles import Awaiting, Callee

if TYPE_CHECKING:
    from .remote import RemoteReplies

__all__ = ["Peer"]


class Peer(Callee):
    """One link and what is under way on it: the callee of requests that it carries."""

    __slots__ = (
        "allowed",
        "contexts",
        "exchange",
        "granted",
        "incoming",
        "last_id",
        "link",
        "name",
        "outgoing",
        "poll",
        "principal",
        "timer",
        "turns",
    )

    def __init__(
        self, link: Link, exchange: ContextExchange, timer: DeadlineTimer, poll: BusyPoll
    ) -> None:
        self.link = link
        self.name = link.peer.peer
        """The process at the other end."""
        self.exchange = exchange
        self.timer = timer
        self.poll = poll
        self.turns = Turns(timer.loop)
        """Of the streams that are written to this peer."""
        self.contexts = PeerContexts()
        self.outgoing: dict[int, Awaiting] = {}
        self.incoming: dict[int, RemoteReplies] = {}
        self.last_id = 0
        self.principal: str | None = None
        """Who the process is, by the broker's word: it joined here, or has shown a grant. None until
        then, when nothing but its own word says that it is the process of that name."""
        self.allowed: dict[tuple[str, str, str], float] = {}
        """Until when the peer may do what (operation, source, subject), as this process's gate has
        found; 0 for what it may not."""
        self.granted: dict[tuple[str, str], None] | None = None
        """The edges (source, target) that this process has shown grants for; None if none is due."""

    def settle(self, number: int) -> Awaiting | None:
        """Forget a request that was sent, with the lease on its context; return it, if there is one."""
        pending = self.outgoing.pop(number, None)
        if pending is not None and pending.context is not None:
            self.exchange.end_lease(self.contexts, number)
        return pending

    def abandon(self, pending: Awaiting, reason: AgentbusError | None) -> None:
        """Tell the peer that nobody waits for a reply any more."""
        if self.settle(pending.id) is not None:
            self.contexts.forget(Kind.REPLY, pending.id)
            self.tell(Envelope(Kind.CANCEL, pending.id))

    def release(self, pending: Pending) -> None:
        """Another agent answers: who had the request here is told."""
        if self.settle(pending.id) is not None:
            self.contexts.forget(Kind.REPLY, pending.id)
            self.tell(Envelope(Kind.HANDOFF, pending.id))

    def grant(self, pending: Pending, count: int) -> None:
        """Let the peer send more parts."""
        if pending.id in self.outgoing:
            self.tell(Envelope(Kind.CREDIT, pending.id, schema=Kind.PART.name, credit=count))

    def feed_sink(self, pending: Pending) -> FeedSink:
        """Return where the parts go that the caller feeds."""
        return _RemoteFeed(self, pending.id)

    def tell(self, envelope: Envelope) -> None:
        """Send what the peer must not miss."""
        try:
            self.link.send(envelope)
        except AgentbusError:
            # What the peer is not told would leave a request hanging: with the link gone it ends.
            self.link.abort()


class _RemoteFeed:
    """Sends what the caller of request `id` feeds to its handler. Implements `FeedSink`."""

    __slots__ = ("_id", "_parts", "_peer", "write")

    def __init__(self, peer: Peer, request: int) -> None:
        self._peer = peer
        self._id = request
        self._parts = Coalescer(peer.turns, self._send)
        self.write = self._parts.write

    def finish(self) -> None:
        """Send the end."""
        self._parts.flush()
        self._tell(Envelope(Kind.FEED, self._id))

    def _send(self, kind: PayloadType, frames: Frames) -> None:
        self._tell(Envelope(Kind.FEED, self._id, schema=kind.schema, payloads=frames))

    def _tell(self, envelope: Envelope) -> None:
        """Send it; if it cannot be sent, the request fails."""
        pending = self._peer.outgoing.get(self._id)
        if pending is None:
            return
        try:
            pending.sent_bytes += self._peer.link.send(envelope)
        except AgentbusError as error:
            self._peer.abandon(pending, error)
            pending.fail(error)
