"""What a link says about requests that are handed over: offers, and how they went."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import AgentbusError, InvalidName, MalformedFrame
from ..messages import Envelope, Kind
from ..routing import BROKER, BUS
from ..telemetry import NO_TRACE, Amount, Ledger
from ..wire import read_failure
from .offer import Offer, refusal
from .origin import Origin
from .peer import Peer

if TYPE_CHECKING:
    from .node import Node

__all__ = ["take_accept", "take_handoff"]


def take_accept(peer: Peer, envelope: Envelope) -> None:
    """Say that a request was taken, now or once its context has come; or hear that it was."""
    number = envelope.id
    if not envelope.target:
        offered = peer.outgoing.get(number)
        if offered is not None:
            offered.accepted()
    elif (Kind.REQUEST, number) in peer.contexts.waiting:
        peer.contexts.tell_taken.add(number)
    elif number in peer.incoming:
        peer.incoming[number].ask_taken(envelope.target)


def take_handoff(peer: Peer, envelope: Envelope, node: Node) -> None:
    """Ask another agent, or hear that the caller waits for another one from here on.

    Raises:
        MalformedFrame: the peer answers what it was not asked.
    """
    if not envelope.target:
        replies = peer.incoming.get(envelope.id)
        if replies is not None:
            replies.settle(read_failure(envelope) if envelope.schema else None)
        return
    if not envelope.payloads:
        raise MalformedFrame("a hand-over has a payload")
    pending = peer.outgoing.get(envelope.id)
    if pending is None:
        return
    try:
        # What the bus's own addresses are told is this process's word, not one of its peers'.
        if envelope.target.startswith((BROKER, BUS)):
            raise InvalidName(envelope.target, "a request cannot be handed over to the bus itself")
        pending.hand_over(peer, _offered(peer, envelope), node)
    except AgentbusError as error:
        peer.link.send(refusal(envelope.id, error))


def _offered(peer: Peer, envelope: Envelope) -> Offer:
    """Return what a peer wants another agent to answer."""
    context = None
    if envelope.context:
        context = peer.exchange.held(peer.contexts, envelope)
    until = peer.timer.time() + envelope.remaining_us / 1e6
    origin = Origin(envelope.source, until, envelope.hops_left, envelope.trace or NO_TRACE)
    if envelope.budget is not None:
        origin.ledger = Ledger(Amount(*envelope.budget))
    target, frames, schema = envelope.target, envelope.payloads, envelope.schema
    return Offer(target, frames, schema, context, origin, peer.name)
