"""Handing a request over: another agent answers the caller in the place of the one it asked.

The caller's process asks the new agent itself, so that the one that lets go is in nobody's way
afterwards, and its end is no loss. It is released only once the new one has accepted: until then
the request is still its own to answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..context import Context
from ..errors import AgentbusError, DeadlineExceeded, RequestCancelled
from ..messages import Envelope, Kind
from ..telemetry import NOTHING, Amount, Ledger, Loan, ModelCost
from ..wire import Buffer, Frames
from .delivery import Delivery
from .exchange import Pending
from .offer import Offer
from .origin import Origin
from .peer import Peer
from .roles import Awaiting, Replies
from .types import TypeTable
from .waiting import wait_until

if TYPE_CHECKING:
    from .node import Node

__all__ = ["Handoff", "Released"]


class Released(Replies):
    """Takes the place of who is answered, for a handler that has handed its request over."""

    def part(self, value: Any) -> bool:
        """Drop it: the new agent writes from here on."""
        return True

    async def writable(self) -> None:
        """Nothing is waited for."""

    def grant_feed(self, count: int) -> None:
        """The feed is the new agent's."""

    def reply(
        self,
        value: Any,
        context: Context | None,
        queue_s: float,
        handle_s: float,
        model: ModelCost,
        spent: Amount | None,
    ) -> None:
        """Drop it: the new agent answers."""

    def fail(self, error: AgentbusError, spent: Amount | None = None) -> None:
        """Drop it: the new agent answers."""


class Handoff:
    """One request on its way from one agent to another, in the process that waits for the reply.

    `settled` is told once: None when the new agent has accepted, or why it has not. As a
    `Workload`, it runs in the pool for who asks from another process.
    """

    def __init__(
        self,
        node: Node,
        pending: Pending,
        offer: Offer,
        settled: Callable[[AgentbusError | None], None],
    ) -> None:
        self._node = node
        self.pending = pending
        self._offer = offer
        self._settled = settled

    async def drain(self, task: asyncio.Task[object]) -> None:
        """Offer the request."""
        await self.run()

    async def run(self) -> None:
        """Offer the request to its new agent and wait until that is settled."""
        offer = self._offer
        _limit(offer.origin, self.pending.loan)
        try:
            if not self._offer_here():
                await wait_until(offer.origin.deadline_at, self._offer_there())
        except TimeoutError:
            self._settled(DeadlineExceeded(offer.target))
        except AgentbusError as error:
            self._settled(error)

    def _offer_here(self) -> bool:
        """Offer it to an agent of this process; returns False if there is none of that name."""
        offer, pending = self._offer, self.pending
        mailbox = self._node.hosts.mailbox(offer.target)
        if mailbox is None:
            return False
        if pending.ended:
            raise RequestCancelled(pending.target)
        delivery = Delivery(
            offer.payload, offer.schema, offer.origin, offer.context, pending, offer.peer
        )
        if pending.window:
            delivery.open_feed()
        mailbox.put_nowait(delivery)
        pending.move(delivery, offer)
        self._settled(None)
        return True

    async def _offer_there(self) -> None:
        peer = await self._node.routes.reach(self._offer.target, self._offer.origin)
        answer: asyncio.Future[None] = self._node.loop.create_future()
        offered = _Offered(self, peer, answer)
        self._node.peers.offer(peer, offered, self._offer, self.pending.credit)
        try:
            await answer
        except BaseException:
            if peer.outgoing.get(offered.id) is offered:
                peer.settle(offered.id)
                peer.tell(Envelope(Kind.CANCEL, offered.id))
            raise

    @property
    def context(self) -> Context | None:
        """The context that the new agent gets."""
        return self._offer.context or self.pending.context

    def accepted(self, peer: Peer, number: int) -> None:
        """The new agent has it: from here on the caller waits for that one."""
        pending = self.pending
        if pending.ended:
            peer.settle(number)
            peer.tell(Envelope(Kind.CANCEL, number))
            self._settled(RequestCancelled(pending.target))
            return
        peer.outgoing[number] = pending
        pending.move(peer, self._offer, number)
        self._settled(None)


def _limit(origin: Origin, loan: Loan | None) -> None:
    """Have a hand-over bring no more than the request that is handed over may spend."""
    if loan is None:
        origin.ledger = None
    else:
        offered = NOTHING if origin.ledger is None else origin.ledger.allowed
        origin.ledger = Ledger(loan.rest(offered))


class _Offered(Awaiting):
    """The request as it is offered to an agent elsewhere."""

    def __init__(self, handoff: Handoff, peer: Peer, answer: asyncio.Future[None]) -> None:
        self._handoff = handoff
        self._peer = peer
        self._answer = answer
        self.id = 0
        self.context: Context | None = handoff.context
        self.sent_bytes = 0
        self.received_bytes = 0

    def accepted(self) -> None:
        """The agent has it in its mailbox."""
        self._moved()

    def fail(self, error: AgentbusError, spent: Amount | None = None) -> None:
        """The agent refuses it, or its process went away."""
        if not self._answer.done():
            self._answer.set_exception(error)

    # An answer may come before it is said that the request was taken: it says that, too.

    def replied(self, envelope: Envelope, context: Context | None, types: TypeTable) -> None:
        """Pass the reply to who waits for it now."""
        pending = self._moved()
        if not pending.ended:
            pending.replied(envelope, context, types)

    def replied_in_short(
        self, schema: str, frame: Buffer, queue_s: float, handle_s: float, types: TypeTable
    ) -> None:
        """Pass the reply to who waits for it now."""
        pending = self._moved()
        self._peer.settle(self.id)  # it was let go of before, to be moved just now
        if not pending.ended:
            pending.replied_in_short(schema, frame, queue_s, handle_s, types)

    def parted(self, schema: str, frames: Frames, types: TypeTable) -> None:
        """Pass parts to who waits for them now."""
        self._moved().parted(schema, frames, types)

    def grant_feed(self, count: int) -> None:
        """Let the caller feed its new agent."""
        self._moved().grant_feed(count)

    def hand_over(self, peer: Peer, offer: Offer, node: Node) -> None:
        """Hand the request over once more."""
        self._moved().hand_over(peer, offer, node)

    def _moved(self) -> Pending:
        """Have the caller wait for the new agent; returns what waits."""
        if not self._answer.done():
            self._answer.set_result(None)
            self._handoff.accepted(self._peer, self.id)
        return self._handoff.pending
