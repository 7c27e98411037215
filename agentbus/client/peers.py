"""Links to other processes: which requests are under way on each, and what is sent there."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from ..config import BusSettings
from ..context import Context, ContextStore, TenantKey
from ..errors import (
    AgentbusError,
    DeadlineExceeded,
    PeerLost,
)
from ..messages import Envelope, Kind
from ..routing import MODEL
from ..transport import Link
from ..wire import (
    TRACE_SIZE,
    Frames,
    is_small,
    pack_request_head,
)
from .busy_poll import BusyPoll
from .contexts import ContextExchange
from .deadlines import DeadlineTimer
from .exchange import Pending
from .intake import Intake
from .offer import Offer
from .origin import Origin
from .payload import payload_type
from .peer import Peer
from .roles import Awaiting
from .types import TypeTable

if TYPE_CHECKING:
    from .node import Node

__all__ = ["Peers"]

logger = logging.getLogger("agentbus")


# An enum's member costs 0.2 µs to look up on Python 3.11, and this is for every request.
_REQUEST: Final = Kind.REQUEST
_REQUESTS: Final = Kind.REQUESTS


class Peers:
    """All links of this process. Implements `LinkOwner` for the transports."""

    def __init__(
        self,
        node: Node,
        settings: BusSettings,
        timer: DeadlineTimer,
        types: TypeTable,
        tenant: TenantKey,
    ) -> None:
        self._node = node
        self._poll = BusyPoll(timer.loop, settings.busy_poll)
        self._timer = timer
        self._contexts = ContextExchange(settings, tenant)
        self.intake = Intake(node, self._contexts, timer, types, settings)
        self._by_link: dict[Link, Peer] = {}
        self._by_name: dict[str, Peer] = {}

    def __iter__(self) -> Iterator[Peer]:
        return iter(tuple(self._by_link.values()))

    @property
    def store(self) -> ContextStore:
        """The contexts that this process keeps."""
        return self._contexts.store

    def of(self, link: Link) -> Peer | None:
        """Return what is known of a link's other end; None if the link is gone."""
        return self._by_link.get(link)

    def named(self, name: str) -> Peer | None:
        """Return the peer that is the process `name`."""
        return self._by_name.get(name)

    def let_go(self, peer: Peer) -> None:
        """Do not find a peer by its name any more."""
        if self._by_name.get(peer.name) is peer:
            del self._by_name[peer.name]

    def take_back(self, peer: Peer) -> None:
        """Find a peer by its name again."""
        self._by_name.setdefault(peer.name, peer)

    def link_opened(self, link: Link) -> None:
        """A link's handshake is done."""
        peer = self._by_link[link] = Peer(link, self._contexts, self._timer, self._poll)
        # Two processes that reach for each other at once make two links: the first one counts,
        # unless it is broken and the process has made a new one in its place.
        present = self._by_name.get(peer.name)
        if present is None or _replaces(peer, present):
            self._by_name[peer.name] = peer

    def joined(self, peer: Peer, principal: str) -> None:
        """Note who a peer is that has joined: its name is its own, whoever said it before."""
        peer.principal = principal
        present = self._by_name.get(peer.name)
        if present is None or present.principal is None or _replaces(peer, present):
            self._by_name[peer.name] = peer

    def received(self, link: Link, envelopes: list[Envelope]) -> None:
        """Take what a link brought. An envelope that cannot be answered ends its own link only."""
        peer = self._by_link.get(link)
        if peer is None:
            return
        self._poll.heard()
        self.intake.take_all(peer, envelopes)
        # A handler that begins now answers before this returns: memory that the peer lent is to be
        # free by then, so that it places its next payload in the same.
        envelopes.clear()
        self._node.begin()

    def link_broken(self, link: Link) -> None:
        """A link goes on over another connection, or will be lost."""
        peer = self._by_link.get(link)
        if peer is not None:
            logger.info("the connection to %s broke", peer.name)
            self._node.peer_broken(peer)

    def link_lost(self, link: Link, error: AgentbusError | None) -> None:
        """End all that was under way on a link."""
        peer = self._by_link.pop(link, None)
        if peer is None:
            return
        if self._by_name.get(peer.name) is peer:
            del self._by_name[peer.name]
            # Whoever else says that it is this process does not come by what that one had.
            same = [p for p in self._by_link.values() if p.name == peer.name]
            self._by_name |= {p.name: p for p in same if _is_same(p, peer)}
        if error is not None and not isinstance(error, PeerLost):
            logger.warning("the link to %s ended: %s", peer.name, error)
        # First of all nothing more is sent there, whatever the end of these requests leads to.
        self._node.peer_lost(peer, error)
        for number, pending in tuple(peer.outgoing.items()):
            pending.fail(PeerLost(peer.name))
            peer.settle(number)
        for replies in tuple(peer.incoming.values()):
            replies.drop()

    def send(self, peer: Peer, pending: Pending, payload: Any, origin: Origin) -> None:
        """Send a request.

        Raises:
            LinkFull, TooLarge, InvalidMessage, Closed: nothing was sent.
            DeadlineExceeded: the deadline has passed already.
        """
        remaining = origin.deadline_at - self._timer.time()
        if remaining <= 0:
            raise DeadlineExceeded(pending.target)
        target, context = pending.target, pending.context
        kind = payload_type(type(payload))
        frames = kind.encode(payload)
        packed = b""
        if context is not None:
            is_engine = target.startswith(MODEL)
            packed = self._contexts.outgoing(peer.contexts, context, engine=is_engine)
        number = peer.last_id = peer.last_id + 1
        remaining_us, link, loan = int(remaining * 1e6) or 1, peer.link, pending.loan
        source, hops_left, trace = origin.source, origin.hops_left, origin.trace
        is_plain = not packed and not pending.window and loan is None
        if link.joins and is_plain and _is_joinable(frames, trace):
            pending.sent_bytes = link.join(
                (_REQUESTS, source, target, kind.schema, hops_left),
                number,
                pack_request_head(remaining_us, trace),
                frames[0],
            )
        else:
            pending.sent_bytes = link.send(
                Envelope(
                    _REQUEST,
                    number,
                    source,
                    target,
                    kind.schema,
                    pending.window,
                    remaining_us,
                    hops_left,
                    trace,
                    packed,
                    frames,
                    0,
                    None if loan is None else loan.amount,
                )
            )
        pending.id = number
        pending.origin = origin
        pending.transport = link.via
        pending.sent_to(peer)
        peer.outgoing[number] = pending
        if context is not None:
            self._contexts.lease(peer.contexts, number, context)
        self._poll.sent()

    def carry(self, peer: Peer, leg: Awaiting, offer: Offer, credit: int) -> None:
        """Send a request that was made elsewhere, its payload as it is.

        Raises:
            LinkFull, TooLarge, Closed: nothing was sent.
            DeadlineExceeded: the deadline has passed already.
        """
        origin, context, target = offer.origin, offer.context, offer.target
        remaining = origin.deadline_at - self._timer.time()
        if remaining <= 0:
            raise DeadlineExceeded(target)
        packed = b""
        if context is not None:
            packed = self._contexts.outgoing(peer.contexts, context, engine=False)
        number = peer.last_id = peer.last_id + 1
        leg.sent_bytes = peer.link.send(
            Envelope(
                _REQUEST,
                number,
                origin.source,
                target,
                offer.schema,
                credit,
                int(remaining * 1e6) or 1,
                origin.hops_left,
                origin.trace,
                packed,
                offer.frames,
                budget=None if origin.ledger is None else origin.ledger.allowed,
            )
        )
        leg.id = number
        peer.outgoing[number] = leg
        if context is not None:
            self._contexts.lease(peer.contexts, number, context)

    def remember(self, peer: Peer | None, context: Context) -> None:
        """Note that a peer holds `context`, as this process does."""
        self._contexts.remember(None if peer is None else peer.contexts, context)

    def offer(self, peer: Peer, offered: Awaiting, offer: Offer, credit: int) -> None:
        """Send a request that was handed over, and ask to be told when its agent has it.

        Raises as `send`.
        """
        self.carry(peer, offered, offer, credit)
        peer.link.send(Envelope(Kind.ACCEPT, offered.id, target=offer.target))


def _replaces(peer: Peer, present: Peer) -> bool:
    """Tell whether a process has made a new link in the place of one that is broken."""
    return present.link.broken and _is_same(present, peer)


def _is_same(one: Peer, other: Peer) -> bool:
    """Tell whether what is made sure of two links' processes is the same."""
    a, b = one.link, other.link
    return (a.user, a.key, one.principal) == (b.user, b.key, other.principal)


def _is_joinable(frames: Frames, trace: bytes) -> bool:
    return is_small(frames) and len(trace) == TRACE_SIZE
