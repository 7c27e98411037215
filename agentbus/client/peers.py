"""Links to other processes: which requests are under way on each, and what its envelopes do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from ..config import BusSettings
from ..context import Context, TenantKey
from ..errors import (
    AgentbusError,
    DeadlineExceeded,
    Draining,
    GrantRefused,
    MalformedFrame,
    NoResponder,
    PeerLost,
    ProtocolError,
)
from ..messages import Envelope, Kind
from ..routing import MODEL
from ..telemetry import NO_TRACE, NOTHING, Amount, Ledger
from ..transport import Link
from ..wire import (
    TRACE_SIZE,
    Frames,
    failure_envelope,
    is_small,
    pack_request_head,
    read_failure,
    read_reply_heads,
    read_request_heads,
)
from .busy_poll import BusyPoll
from .contexts import REPLY_WAITS, ContextExchange
from .deadlines import DeadlineTimer
from .delivery import Delivery
from .exchange import Pending
from .gate import Gate
from .handovers import take_accept, take_handoff
from .offer import Offer
from .origin import Origin
from .payload import payload_type
from .remote import Peer, RemoteReplies
from .roles import Awaiting
from .types import TypeTable

if TYPE_CHECKING:
    from .node import Node

__all__ = ["Peer", "Peers"]

logger = logging.getLogger("agentbus")


# An enum's member costs 0.2 µs to look up on Python 3.11, and this is for every request.
_REQUEST: Final = Kind.REQUEST
_REQUESTS: Final = Kind.REQUESTS
_REPLY_PAYLOADS: Final = 2
"""At least: the account, the value's msgpack, and behind it its buffers."""


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
        self._types = types
        self._default_deadline = settings.default_deadline
        self._contexts = ContextExchange(settings, tenant)
        self._by_link: dict[Link, Peer] = {}
        self._by_name: dict[str, Peer] = {}
        self._gate: Gate | None = None
        # By the number of the kind: hashing an enum's member is a call in Python.
        self._takers: dict[int, Callable[[Peer, Envelope], None]] = {
            Kind.REQUEST.value: self._take_request,
            Kind.REQUESTS.value: self._take_requests,
            Kind.REPLY.value: self._take_reply,
            Kind.REPLIES.value: self._take_replies,
            Kind.ERROR.value: self._take_error,
            Kind.PART.value: self._take_part,
            Kind.CREDIT.value: self._take_credit,
            Kind.FEED.value: self._take_feed,
            Kind.ACCEPT.value: take_accept,
            Kind.HANDOFF.value: self._take_handoff,
            Kind.CANCEL.value: self._take_cancel,
            Kind.WANT.value: self._take_want,
            Kind.HAVE.value: self._take_have,
            Kind.PUBLISH.value: node.published,
        }

    def __iter__(self) -> Iterator[Peer]:
        return iter(tuple(self._by_link.values()))

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
        self._take_all(peer, envelopes)
        # A handler that begins now answers before this returns: memory that the peer lent is to be
        # free by then, so that it places its next payload in the same.
        envelopes.clear()
        self._node.begin()

    def _take_all(self, peer: Peer, envelopes: Sequence[Envelope]) -> None:
        link, takers = peer.link, self._takers
        for envelope in envelopes:
            try:
                takers[envelope.kind](peer, envelope)
            except AgentbusError as error:
                logger.warning("the link to %s is closed: %s", peer.name, error)
                link.abort()
            if link.closing:
                break

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
        for pending in tuple(peer.outgoing.values()):
            pending.fail(PeerLost(peer.name))
        peer.outgoing.clear()
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

    def remember(self, peer: Peer | None, context: Context) -> None:
        """Note that a peer holds `context`, as this process does."""
        self._contexts.remember(None if peer is None else peer.contexts, context)

    def _context_of(self, peer: Peer, envelope: Envelope) -> Context | None:
        """Return the context that came with a message; None if its rest had to be asked for."""
        found = self._contexts.incoming(peer.contexts, envelope)
        if isinstance(found, Context):
            return found
        peer.link.send(found)
        return None

    def guard(self, gate: Gate | None) -> None:
        """Have a gate decide which requests are taken; None takes all."""
        self._gate = gate
        one, many = self._take_request, self._take_requests
        if gate is not None:
            one, many = self._take_guarded, self._take_guarded_ones
        self._takers |= {Kind.REQUEST.value: one, Kind.REQUESTS.value: many}

    def _take_guarded(self, peer: Peer, envelope: Envelope) -> None:
        if self._is_let_in(peer, envelope, 1):
            self._take_request(peer, envelope)

    def _take_guarded_ones(self, peer: Peer, envelope: Envelope) -> None:
        if self._is_let_in(peer, envelope, len(envelope.payloads) - 1):
            self._take_requests(peer, envelope)

    def _is_let_in(self, peer: Peer, envelope: Envelope, count: int) -> bool:
        """Ask the gate about requests of one edge, as all of an envelope are; refuse each of them."""
        try:
            if self._gate is not None:
                self._gate.check_request(peer, envelope.source, envelope.target)
        except AgentbusError as error:
            for number in range(envelope.id, envelope.id + count):
                peer.link.send(failure_envelope(number, error))
            return False
        return True

    def _take_request(self, peer: Peer, envelope: Envelope) -> None:
        context = None
        try:
            if envelope.context and (context := self._context_of(peer, envelope)) is None:
                return
            if not envelope.payloads:
                raise MalformedFrame("a request has a payload")
        except AgentbusError as error:
            self._refuse_request(peer, envelope, envelope.id, error)
            return
        number, remaining_us, trace = envelope.id, envelope.remaining_us, envelope.trace
        self._accept(peer, envelope, number, remaining_us, trace, envelope.payloads, context)

    def _take_requests(self, peer: Peer, envelope: Envelope) -> None:
        number = envelope.id
        bodies = iter(envelope.payloads[1:])
        for remaining_us, trace in read_request_heads(envelope.payloads):
            self._accept(peer, envelope, number, remaining_us, trace, (next(bodies),), None)
            number += 1

    def _accept(
        self,
        peer: Peer,
        envelope: Envelope,
        number: int,
        remaining_us: int,
        trace: bytes,
        frames: Frames,
        context: Context | None,
    ) -> None:
        """Deliver a request, or send back why it cannot be."""
        try:
            seconds = remaining_us / 1e6
            if seconds < 0:
                seconds = self._default_deadline
            until = self._timer.time() + seconds
            target, credit = envelope.target, envelope.credit
            origin = Origin(envelope.source, until, envelope.hops_left, trace or NO_TRACE)
            if envelope.budget is not None:
                origin.ledger = Ledger(Amount(*envelope.budget))
            replies = RemoteReplies(peer, number, target, context, credit)
            delivery = replies.delivery = Delivery(
                frames, envelope.schema, origin, context, replies, peer.name
            )
            if credit:
                delivery.open_feed()
            peer.incoming[number] = replies
            replies.deadline = self._timer.add(until, replies.expire)
            self._node.deliver(target, delivery)
            if number in peer.contexts.tell_taken:
                peer.link.send(Envelope(Kind.ACCEPT, number))
        except AgentbusError as error:
            self._refuse_request(peer, envelope, number, error)

    def _refuse_request(
        self, peer: Peer, envelope: Envelope, number: int, error: AgentbusError
    ) -> None:
        """End a request that was not begun, and so has spent nothing."""
        refused = peer.incoming.pop(number, None)
        if refused is not None:
            self._timer.cancel(refused.deadline)
        spent = None if envelope.budget is None else NOTHING
        peer.link.send(failure_envelope(number, error, spent))

    def _take_reply(self, peer: Peer, envelope: Envelope) -> None:
        pending = peer.outgoing.get(envelope.id)
        if pending is None:
            return
        pending.received_bytes += envelope.size
        try:
            context = pending.context
            if envelope.context and (context := self._context_of(peer, envelope)) is None:
                return
            if len(envelope.payloads) < _REPLY_PAYLOADS:
                raise MalformedFrame("a reply has an account and a value")
            pending.replied(envelope, context, self._types)
        except AgentbusError as error:
            pending.fail(error)
        peer.outgoing.pop(envelope.id, None)

    def _take_replies(self, peer: Peer, envelope: Envelope) -> None:
        outgoing, types, schema = peer.outgoing, self._types, envelope.schema
        bodies = iter(envelope.payloads[1:])
        for number, queue_s, handle_s in read_reply_heads(envelope.payloads):
            body = next(bodies)
            pending = outgoing.pop(number, None)
            if pending is None:
                continue
            pending.received_bytes += len(body)
            try:
                pending.replied_in_short(schema, body, queue_s, handle_s, types)
            except AgentbusError as error:
                pending.fail(error)

    def _take_error(self, peer: Peer, envelope: Envelope) -> None:
        pending = peer.outgoing.pop(envelope.id, None)
        if pending is not None:
            pending.received_bytes += envelope.size
            try:
                failure = read_failure(envelope)
                if isinstance(failure, Draining | NoResponder | GrantRefused):
                    self._node.draining_elsewhere(failure.target)
                budget = envelope.budget
                pending.fail(failure, None if budget is None else Amount(*budget))
            except AgentbusError as error:
                pending.fail(error)

    def _take_part(self, peer: Peer, envelope: Envelope) -> None:
        pending = peer.outgoing.get(envelope.id)
        if pending is None:
            return
        pending.received_bytes += envelope.size
        try:
            if not envelope.payloads:
                raise MalformedFrame("parts have a payload")
            pending.parted(envelope, self._types)
        except ProtocolError:
            raise
        except AgentbusError as error:
            peer.abandon(pending, error)
            pending.fail(error)

    def _take_credit(self, peer: Peer, envelope: Envelope) -> None:
        if envelope.schema == Kind.FEED.name:
            pending = peer.outgoing.get(envelope.id)
            if pending is not None:
                pending.grant_feed(envelope.credit)
            return
        replies = peer.incoming.get(envelope.id)
        if replies is not None:
            replies.grant(envelope.credit)

    def _take_feed(self, peer: Peer, envelope: Envelope) -> None:
        replies = peer.incoming.get(envelope.id)
        delivery = None if replies is None else replies.delivery
        if replies is None or delivery is None:
            return
        if delivery.feed is None:
            raise MalformedFrame("a feed goes with a streamed request")
        if replies.carried is not None:
            replies.carried.feed(envelope.schema, envelope.payloads)
        elif envelope.payloads:
            delivery.feed.take_batch(envelope.payloads)
        else:
            delivery.feed.end()

    def offer(self, peer: Peer, offered: Awaiting, offer: Offer, credit: int) -> None:
        """Send a request that was handed over, and ask to be told when its agent has it.

        Raises as `send`.
        """
        self.carry(peer, offered, offer, credit)
        peer.link.send(Envelope(Kind.ACCEPT, offered.id, target=offer.target))

    def _take_handoff(self, peer: Peer, envelope: Envelope) -> None:
        take_handoff(peer, envelope, self._node)

    def _take_cancel(self, peer: Peer, envelope: Envelope) -> None:
        peer.contexts.forget(Kind.REQUEST, envelope.id)
        replies = peer.incoming.get(envelope.id)
        if replies is not None:
            replies.drop()

    def _take_want(self, peer: Peer, envelope: Envelope) -> None:
        pending = None
        if envelope.schema != REPLY_WAITS:
            pending = peer.outgoing.get(envelope.id)
        try:
            have = self._contexts.answer(peer.contexts, envelope)
        except AgentbusError as error:
            if pending is not None:
                peer.abandon(pending, error)
                pending.fail(error)
                return
            logger.warning("a context that %s asks for cannot be sent: %s", peer.name, error)
            have = self._contexts.nothing(envelope)
        sent = peer.link.send(have)
        if pending is not None:
            pending.sent_bytes += sent
            pending.received_bytes += envelope.size

    def _take_have(self, peer: Peer, envelope: Envelope) -> None:
        waiting = self._contexts.waiting_for(peer.contexts, envelope)
        if waiting is None:
            return
        try:
            want = self._contexts.learn(peer.contexts, envelope, waiting)
        except AgentbusError as error:
            self._refuse(peer, waiting, error)
        else:
            if want is not None:
                peer.link.send(want)
                return
            self._takers[waiting.kind](peer, waiting)
        peer.contexts.forget(waiting.kind, waiting.id)

    def _refuse(self, peer: Peer, waiting: Envelope, error: AgentbusError) -> None:
        """End a request whose context cannot be had."""
        if waiting.kind is Kind.REQUEST:
            self._refuse_request(peer, waiting, waiting.id, error)
            return
        pending = peer.outgoing.pop(waiting.id, None)
        if pending is not None:
            pending.fail(error)


def _replaces(peer: Peer, present: Peer) -> bool:
    """Tell whether a process has made a new link in the place of one that is broken."""
    return present.link.broken and _is_same(present, peer)


def _is_same(one: Peer, other: Peer) -> bool:
    """Tell whether what is made sure of two links' processes is the same."""
    a, b = one.link, other.link
    return (a.user, a.key, one.principal) == (b.user, b.key, other.principal)


def _is_joinable(frames: Frames, trace: bytes) -> bool:
    return is_small(frames) and len(trace) == TRACE_SIZE
