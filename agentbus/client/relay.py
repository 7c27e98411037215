"""Carries requests on to the process that has the agent: for callers that cannot reach it
themselves, and for groups, whose members are chosen here.

Payloads pass as they are, contexts by reference as on any link, credit and cancellation in both
directions; the relay keeps nothing but who waits for whom.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ..context import Context
from ..errors import AgentbusError, MalformedFrame, NoResponder, PeerLost
from ..messages import Envelope, Kind
from ..telemetry import NO_COST, Amount
from ..wire import Buffer, Frames, count_batch
from .cost import pack_cost
from .delivery import Delivery
from .flow import MAX_CREDIT
from .offer import Offer, refusal
from .peer import Peer
from .peers import Peers
from .remote import RemoteReplies
from .roles import Awaiting
from .types import TypeTable

if TYPE_CHECKING:
    from .node import Node

__all__ = ["Relay", "Router"]


class Router(Protocol):
    """The rules: which process a request is carried on to. `broker.Directory` has them."""

    def assign(self, name: str, request: object) -> str | None:
        """Return the process; None if the request waits, to come back from `finished`.

        Raises:
            NoResponder, MailboxFull: nobody takes it.
        """
        ...

    def forget(self, name: str, request: object) -> None:
        """Nobody waits for a request that waits any more."""
        ...

    def finished(self, name: str, process: str) -> tuple[object, str] | None:
        """A request ended that `process` had; returns one that waited, and who takes it."""
        ...


class Relay:
    """All requests on their way through this process."""

    def __init__(self, peers: Peers, router: Router) -> None:
        self._peers = peers
        self._router = router
        self._freed: deque[tuple[str, str]] = deque()

    def take(self, target: str, delivery: Delivery) -> None:
        """Carry a request on, now or when a member of its group has room.

        Raises:
            NoResponder, MailboxFull: nobody takes it.
        """
        waiting = _Waiting(self, target, delivery)
        process = self._router.assign(target.partition("/")[0], waiting)
        if process is not None:
            self._carry(target, delivery, process)
        elif isinstance(delivery.replies, RemoteReplies):
            delivery.replies.carried = waiting

    def give(self, request: object, process: str) -> None:
        """Carry a request on that waited."""
        if not isinstance(request, _Waiting):
            raise TypeError("a router returns what it was given")
        self._carry(request.target, request.delivery, process)

    def forget(self, request: _Waiting) -> None:
        """Let go of a request that waits, since its caller has."""
        self._router.forget(request.target.partition("/")[0], request)

    def refuse(self, request: object) -> None:
        """End a request that waited and that nobody will take."""
        if isinstance(request, _Waiting) and not request.delivery.done:
            delivery = request.delivery
            delivery.replies.fail(NoResponder(request.target), delivery.spent)

    async def unseat(self, process: str) -> bool:
        """End the link to a process if it is broken; returns whether it was."""
        peer = self._peers.named(process)
        if peer is None or not peer.link.broken:
            return False
        await peer.link.aclose()
        return True

    def finished(self, target: str, process: str) -> None:
        """A request has ended: another may take its place."""
        # What is carried on may end at once, so this is called again while it is at work.
        self._freed.append((target, process))
        if len(self._freed) > 1:
            return
        while self._freed:
            target, process = self._freed[0]
            try:
                following = self._router.finished(target.partition("/")[0], process)
                if following is not None:
                    self.give(*following)
            finally:
                self._freed.popleft()

    def _carry(self, target: str, delivery: Delivery, process: str) -> None:
        replies = delivery.replies
        peer = self._peers.named(process)
        if not isinstance(replies, RemoteReplies):
            raise TypeError("only what came over a link is carried on")
        if peer is None:
            replies.fail(PeerLost(process), delivery.spent)
            self.finished(target, process)
            return
        leg = _Leg(self, target, peer, replies, delivery)
        try:
            payload, schema, context = delivery.payload, delivery.schema, delivery.context
            offer = Offer(target, payload, schema, context, delivery.origin, delivery.peer)
            self._peers.carry(peer, leg, offer, replies.credit)
        except AgentbusError as error:
            leg.fail(error, delivery.spent)
        else:
            leg.join()


class _Waiting:
    """A request that a router keeps until a member of its group has room. Implements `Carried`."""

    __slots__ = ("_relay", "delivery", "target")

    def __init__(self, relay: Relay, target: str, delivery: Delivery) -> None:
        self._relay = relay
        self.target = target
        self.delivery = delivery

    def credit(self, count: int) -> None:
        """Nothing to do: the credit is counted where it came, and goes along in the end."""

    def feed(self, schema: str, frames: Frames) -> None:
        """Take the feed's end; nobody has asked for parts of it.

        Raises:
            MalformedFrame: they are parts all the same.
        """
        if frames:
            raise MalformedFrame("parts of a feed came that nobody asked for")
        if self.delivery.feed is not None:
            self.delivery.feed.end()

    def ask_taken(self, target: str) -> None:
        """Tell the caller that the group has it."""
        if isinstance(self.delivery.replies, RemoteReplies):
            self.delivery.replies.tell_taken()

    def stop(self) -> None:
        """Nobody waits for the reply any more."""
        self._relay.forget(self)


class _Leg(Awaiting):
    """One request between this process and the one that answers it."""

    def __init__(
        self, relay: Relay, target: str, peer: Peer, replies: RemoteReplies, delivery: Delivery
    ) -> None:
        self._relay = relay
        self._target = target
        self._peer = peer
        self._replies = replies
        self._delivery = delivery
        self._ended = False
        self._feed_credit = 0
        """Parts of the caller's feed that the agent has asked for and not got."""
        self.id = 0
        self.context: Context | None = delivery.context
        self.sent_bytes = 0
        self.received_bytes = 0

    def join(self) -> None:
        """Have what the caller does from here on reach the process that answers."""
        self._replies.carried = self
        if self._delivery.feed is not None and self._delivery.feed.ended:
            self.feed("", ())

    # --- from the process that answers

    def replied(self, envelope: Envelope, context: Context | None, types: TypeTable) -> None:
        """Pass the reply on."""
        self._pass(lambda: self._replies.pass_reply(envelope, context))
        self._end()

    def replied_in_short(
        self, schema: str, frame: Buffer, queue_s: float, handle_s: float, types: TypeTable
    ) -> None:
        """Pass the reply on."""
        frames = (pack_cost(queue_s, handle_s, NO_COST), frame)
        reply = Envelope(Kind.REPLY, schema=schema, payloads=frames)
        self._pass(lambda: self._replies.pass_reply(reply, self.context))
        self._end()

    def parted(self, schema: str, frames: Frames, types: TypeTable) -> None:
        """Pass parts on.

        Raises:
            MalformedFrame: they are more than the caller takes.
        """
        self._replies.spend(count_batch(frames))
        self._pass(lambda: self._replies.pass_parts(schema, frames))

    def grant_feed(self, count: int) -> None:
        """Pass credit on.

        Raises:
            MalformedFrame: it is more than anyone may give.
        """
        self._feed_credit += count
        if self._feed_credit > MAX_CREDIT:
            raise MalformedFrame(f"a credit of {self._feed_credit} parts is over {MAX_CREDIT}")
        self._replies.grant_feed(count)

    def accepted(self) -> None:
        """Pass on that the agent has it."""
        self._replies.tell_taken()

    def hand_over(self, peer: Peer, offer: Offer, node: Node) -> None:
        """Pass the offer on to the caller, and back how it went."""

        def settled(error: AgentbusError | None) -> None:
            if error is not None:
                self.tell(refusal(self.id, error))
            elif peer.settle(self.id) is not None:
                self.tell(Envelope(Kind.HANDOFF, self.id))
                self._end()

        self._replies.ask_handover(offer, settled)

    def fail(self, error: AgentbusError, spent: Amount | None = None) -> None:
        """Pass an error on, or the loss of the process."""
        self._delivery.done = True
        self._replies.fail(error, spent)
        self._end()

    # --- from the caller

    def credit(self, count: int) -> None:
        """Pass credit on."""
        self.tell(Envelope(Kind.CREDIT, self.id, schema=Kind.PART.name, credit=count))

    def feed(self, schema: str, frames: Frames) -> None:
        """Pass parts of the caller's feed on, or its end.

        Raises:
            MalformedFrame: they are more than were asked for.
        """
        if frames:
            self._feed_credit -= count_batch(frames)
            if self._feed_credit < 0:
                raise MalformedFrame("parts of a feed came that nobody asked for")
        self.tell(Envelope(Kind.FEED, self.id, schema=schema, payloads=frames))

    def ask_taken(self, target: str) -> None:
        """Pass the question on."""
        self.tell(Envelope(Kind.ACCEPT, self.id, target=target))

    def stop(self) -> None:
        """Nobody waits for the reply any more."""
        if self._peer.settle(self.id) is not None:
            self.tell(Envelope(Kind.CANCEL, self.id))
        self._end()

    def tell(self, envelope: Envelope) -> None:
        """Send something to the process that answers, unless the request has ended."""
        if not self._ended:
            self._peer.tell(envelope)

    def _pass(self, send: Callable[[], None]) -> None:
        try:
            send()
        except AgentbusError as error:
            self._replies.fail(error)
            self.stop()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._relay.finished(self._target, self._peer.name)
