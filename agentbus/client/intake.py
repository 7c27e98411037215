"""What the envelopes do that links bring: requests are delivered, replies end what waits for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ..config import BusSettings
from ..context import Context
from ..errors import (
    AgentbusError,
    Draining,
    GrantRefused,
    MalformedFrame,
    NoResponder,
    ProtocolError,
)
from ..messages import Envelope, Kind
from ..telemetry import NO_TRACE, NOTHING, Amount, Ledger
from ..wire import (
    Frames,
    failure_envelope,
    read_failure,
    read_parts_heads,
    read_reply_heads,
    read_request_heads,
)
from .contexts import REPLY_WAITS, ContextExchange
from .deadlines import DeadlineTimer
from .delivery import Delivery
from .gate import Gate
from .handovers import take_accept, take_handoff
from .origin import Origin
from .peer import Peer
from .remote import RemoteReplies
from .types import TypeTable

if TYPE_CHECKING:
    from .node import Node

__all__ = ["Intake"]

logger = logging.getLogger("agentbus")

_REPLY_PAYLOADS: Final = 2
"""At least: the account, the value's msgpack, and behind it its buffers."""


class Intake:
    """Takes the envelopes of all links."""

    def __init__(
        self,
        node: Node,
        contexts: ContextExchange,
        timer: DeadlineTimer,
        types: TypeTable,
        settings: BusSettings,
    ) -> None:
        self._node = node
        self._contexts = contexts
        self._timer = timer
        self._types = types
        self._default_deadline = settings.default_deadline
        self._gate: Gate | None = None
        # By the number of the kind: hashing an enum's member is a call in Python.
        self._takers: dict[int, Callable[[Peer, Envelope], None]] = {
            Kind.REQUEST.value: self._take_request,
            Kind.REQUESTS.value: self._take_requests,
            Kind.REPLY.value: self._take_reply,
            Kind.REPLIES.value: self._take_replies,
            Kind.ERROR.value: self._take_error,
            Kind.PART.value: self._take_part,
            Kind.PARTS.value: self._take_parts,
            Kind.CREDIT.value: self._take_credit,
            Kind.FEED.value: self._take_feed,
            Kind.ACCEPT.value: take_accept,
            Kind.HANDOFF.value: self._take_handoff,
            Kind.CANCEL.value: self._take_cancel,
            Kind.WANT.value: self._take_want,
            Kind.HAVE.value: self._take_have,
            Kind.PUBLISH.value: node.published,
        }

    def take_all(self, peer: Peer, envelopes: Sequence[Envelope]) -> None:
        """Take envelopes of one link, in order. One that cannot be answered ends that link only."""
        link, takers = peer.link, self._takers
        for envelope in envelopes:
            try:
                takers[envelope.kind](peer, envelope)
            except AgentbusError as error:
                logger.warning("the link to %s is closed: %s", peer.name, error)
                link.abort()
            if link.closing:
                break

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

    def _context_of(self, peer: Peer, envelope: Envelope) -> Context | None:
        """Return the context that came with a message; None if its rest had to be asked for."""
        found = self._contexts.incoming(peer.contexts, envelope)
        if isinstance(found, Context):
            return found
        peer.link.send(found)
        return None

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
        peer.settle(envelope.id)

    def _take_replies(self, peer: Peer, envelope: Envelope) -> None:
        outgoing, types, schema = peer.outgoing, self._types, envelope.schema
        bodies = iter(envelope.payloads[1:])
        for number, queue_s, handle_s in read_reply_heads(envelope.payloads):
            body = next(bodies)
            pending = outgoing.pop(number, None)
            if pending is None:
                continue
            if pending.context is not None:
                self._contexts.end_lease(peer.contexts, number)
            pending.received_bytes += len(body)
            try:
                pending.replied_in_short(schema, body, queue_s, handle_s, types)
            except AgentbusError as error:
                pending.fail(error)

    def _take_error(self, peer: Peer, envelope: Envelope) -> None:
        pending = peer.settle(envelope.id)
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
        if not envelope.payloads:
            raise MalformedFrame("parts have a payload")
        self._part(peer, envelope.id, envelope.schema, envelope.payloads, envelope.size)

    def _take_parts(self, peer: Peer, envelope: Envelope) -> None:
        bodies = iter(envelope.payloads[1:])
        for (number,) in read_parts_heads(envelope.payloads):
            body = next(bodies)
            self._part(peer, number, envelope.schema, (body,), len(body))

    def _part(self, peer: Peer, number: int, schema: str, frames: Frames, size: int) -> None:
        """Hand parts to who reads the reply of a request of this process."""
        pending = peer.outgoing.get(number)
        if pending is None:
            return
        pending.received_bytes += size
        try:
            pending.parted(schema, frames, self._types)
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
            found = self._contexts.learn(peer.contexts, envelope, waiting)
        except AgentbusError as error:
            self._refuse(peer, waiting, error)
        else:
            if isinstance(found, Envelope):
                peer.link.send(found)
                return
            self._take_waiting(peer, waiting, found)
        peer.contexts.forget(waiting.kind, waiting.id)

    def _take_waiting(self, peer: Peer, waiting: Envelope, found: Context) -> None:
        """Take a message whose context has come, which may be more than the store has room for."""
        store = self._contexts.store
        store.lease(found)
        try:
            self._takers[waiting.kind](peer, waiting)
        finally:
            store.end_lease(found.root)

    def _refuse(self, peer: Peer, waiting: Envelope, error: AgentbusError) -> None:
        """End a request whose context cannot be had."""
        if waiting.kind is Kind.REQUEST:
            self._refuse_request(peer, waiting, waiting.id, error)
            return
        pending = peer.settle(waiting.id)
        if pending is not None:
            pending.fail(error)
