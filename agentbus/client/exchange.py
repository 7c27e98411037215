"""The caller's side of one request: it ends exactly once, with a reply or a typed error."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ..context import Context
from ..errors import AgentbusError, DeadlineExceeded, MalformedFrame, RequestCancelled
from ..messages import Envelope
from ..telemetry import (
    KEPT_BY,
    NO_COST,
    NOTHING,
    Amount,
    HopAccount,
    Loan,
    Metrics,
    ModelCost,
    SpanLog,
)
from ..wire import Buffer, Frames, count_batch
from .cost import read_cost
from .deadlines import DeadlineTimer
from .feed import FeedWriter
from .flow import Inflow, Outflow
from .origin import Origin
from .payload import PayloadType, payload_type
from .reply import Reply
from .roles import Awaiting, Callee, Replies
from .tracing import log_asked
from .types import TypeTable

if TYPE_CHECKING:
    from .node import Node
    from .offer import Offer
    from .peer import Peer

__all__ = ["Pending"]


class Pending(Replies, Awaiting):
    """One request that this process waits for: replies of callees in process come here."""

    __slots__ = (
        "_error",
        "_handle_s",
        "_inflow",
        "_kept",
        "_metrics",
        "_model",
        "_outflow",
        "_queue_s",
        "_spent",
        "_timer",
        "_value",
        "_waiter",
        "_wall_s",
        "callee",
        "deadline",
        "ended",
        "feed",
        "is_moving",
        "loan",
        "origin",
        "returns",
        "started",
        "target",
        "transport",
        "window",
    )

    def __init__(
        self,
        timer: DeadlineTimer,
        metrics: Metrics,
        target: str,
        context: Context | None,
        returns: PayloadType | None,
        window: int = 0,
    ) -> None:
        self._timer = timer
        self._metrics = metrics
        self._waiter: asyncio.Future[None] | None = None
        """Who waits for the end, if somebody had to."""
        self._value: Any = None
        """The reply's; what it cost is beside it, and made an account of if one is asked for."""
        self._error: AgentbusError | None = None
        self._inflow = Inflow(timer.loop, window, self._grant, metrics.sent) if window else None
        self._outflow: Outflow | None = None
        """The writer's end of the stream, if the callee is in this process."""
        self.feed = FeedWriter(timer.loop) if window else None
        self.window = window
        """Parts that the caller takes at first; 0 if it does not read parts."""
        self.started = metrics.clock()
        self.target = target
        self.context = context
        self.returns = returns
        self.ended = False
        self._kept = 0
        """Credit for who will have the request, while that is open."""
        self.is_moving = False
        """Another agent is being asked to take it over."""
        self.callee: Callee | None = None
        """Set once the request was sent, until it ends."""
        self.deadline = 0
        """Its number at the timer."""
        self.loan: Loan | None = None
        """What it may spend, until it ends."""
        self._spent: Amount | None = None
        self._wall_s = 0.0
        # What follows is set by who sends it.
        self.id = 0
        self.origin: Origin | None = None
        self.transport = "inproc"
        self.sent_bytes = 0
        self.received_bytes = 0

    def part(self, value: Any) -> bool:
        """Keep a part for the reader."""
        if self._inflow is None:
            return True
        if self._outflow is None:
            self._outflow = Outflow(self._timer.loop, self.credit, self._keep)
        return self._outflow.push(value)

    async def writable(self) -> None:
        """Wait until the reader takes more."""
        if self._outflow is not None:
            await self._outflow.writable()

    def grant_feed(self, count: int) -> None:
        """Let the caller feed more.

        Raises:
            MalformedFrame: it feeds nothing, or that is more than anyone may.
        """
        if self.feed is None:
            raise MalformedFrame("credit for the feed of a request without one")
        self.feed.grant(count)

    @property
    def credit(self) -> int:
        """How many parts the caller takes now; 0 if it does not read parts."""
        return 0 if self._inflow is None else self._inflow.room - self._kept

    def move(self, callee: Callee, offer: Offer, number: int = 0) -> None:
        """Wait for somebody else from here on; `number` is the request's on that one's link."""
        if self._outflow is not None:
            self._outflow.close()
            self._outflow = None
        former, self.callee = self.callee, None
        if former is not None:
            former.release(self)
        self.target, self.id = offer.target, number
        self.context = offer.context or self.context
        ledger = offer.origin.ledger
        if self.loan is not None and ledger is not None:
            self.loan.pass_on(ledger.allowed)
        self.sent_to(callee)

    def sent_to(self, callee: Callee) -> None:
        """Note who was asked."""
        self.callee = callee
        if self.feed is not None:
            self.feed.connect(callee.feed_sink(self))

    def _keep(self, value: Any) -> None:
        if not self.ended and self._inflow is not None:
            self._inflow.spend(1)
            self._inflow.put((payload_type(type(value)).receive(value),))

    def settle_move(self) -> None:
        """Nobody is asked to take it over any more: whoever has it gets the credit kept meanwhile."""
        self.is_moving = False
        count, self._kept = self._kept, 0
        if count and not self.ended:
            self._grant(count)

    def _grant(self, count: int) -> None:
        if self.is_moving:
            self._kept += count
            return
        if self._outflow is not None:
            self._outflow.grant(count)
        elif self.callee is not None:
            self.callee.grant(self, count)

    def reply(
        self,
        value: Any,
        context: Context | None,
        queue_s: float,
        handle_s: float,
        model: ModelCost,
        spent: Amount | None,
    ) -> None:
        """End with a reply."""
        if not self.ended:
            self._spent = spent
            value = (self.returns or payload_type(type(value))).receive(value)
            self.take_reply(value, context, queue_s, handle_s, model)

    def take_reply(
        self,
        value: Any,
        context: Context | None,
        queue_s: float,
        handle_s: float,
        model: ModelCost,
    ) -> None:
        """End with a reply whose value is the caller's own already."""
        if self.window:  # else it is measured when it is asked for, right after the end
            self._wall_s = self._metrics.clock() - self.started
        self.context = context
        self._queue_s = queue_s
        self._handle_s = handle_s
        self._model = model
        self._value = value
        self._end(None)

    def accepted(self) -> None:
        """Nothing to do: whoever was asked first is taken to have it."""

    def hand_over(self, peer: Peer, offer: Offer, node: Node) -> None:
        """Ask another agent, with what the first one gives it."""
        node.handed_over(peer, self, offer)

    def replied(self, envelope: Envelope, context: Context | None, types: TypeTable) -> None:
        """End with a reply that came over a link.

        Raises:
            InvalidMessage, MalformedFrame: it cannot be read.
        """
        kind = self.returns or types.find(envelope.schema)
        account, *frames = envelope.payloads
        value = kind.decode(tuple(frames))
        self._spent = _amount(envelope.budget)
        self.take_reply(value, context, *read_cost(account))

    def replied_in_short(
        self, schema: str, frame: Buffer, queue_s: float, handle_s: float, types: TypeTable
    ) -> None:
        """As `replied`, for a reply that came together with others."""
        value = (self.returns or types.find(schema)).decode((frame,))
        self.take_reply(value, self.context, queue_s, handle_s, NO_COST)

    def parted(self, schema: str, frames: Frames, types: TypeTable) -> None:
        """Keep parts that came over a link.

        Raises:
            InvalidMessage: they cannot be read.
            MalformedFrame: they are no batch, or more than the caller takes; none was decoded.
        """
        if self.ended:
            return
        if self._inflow is None:
            raise MalformedFrame("parts of a stream came that nobody asked for")
        self._inflow.spend(count_batch(frames))
        self._inflow.put(types.find(schema).decode_batch(frames))

    def fail(self, error: AgentbusError, spent: Amount | None = None) -> None:
        """End with an error."""
        if self.ended:
            return
        self._spent = spent
        self._metrics.failed(error.code)
        self._end(error)

    def expire(self) -> None:
        """End since the deadline has passed; the callee is told."""
        self._abandon(DeadlineExceeded(self.target))

    async def wait(self) -> Any:
        """Wait for the end and return the value. Cancelling the wait cancels the request."""
        if not self.ended:
            self._waiter = self._timer.loop.create_future()
            try:
                await self._waiter
            except BaseException:
                self.drop()
                raise
        return self.value()

    def value(self) -> Any:
        """Return the reply's value, or raise the error, of a request that has ended."""
        if self._error is not None:
            raise self._error
        return self._value

    def refuse(self, reason: BaseException) -> None:
        """End since it was not taken: nobody has begun with it."""
        self._spent = NOTHING
        self.drop(reason if isinstance(reason, AgentbusError) else None)

    def drop(self, reason: AgentbusError | None = None) -> None:
        """End since the caller no longer waits, if no other reason is given; the callee is told."""
        if not self.ended:
            if self._waiter is not None:
                self._waiter.cancel()
            callee = self._end(reason or RequestCancelled(self.target))
            if callee is not None:
                callee.abandon(self, None)

    async def next_part(self) -> Any:
        """Return the next part.

        Raises:
            StopAsyncIteration: the reply has come and all parts are read.
        """
        if self._inflow is None:
            raise StopAsyncIteration
        return await anext(self._inflow)

    def result(self) -> Reply[Any]:
        """Return the reply of a request that has ended with one."""
        return Reply(self.value(), self.context, self._account())

    def _account(self) -> HopAccount:
        self._wall_s = self._wall_s or self._metrics.clock() - self.started
        return HopAccount(
            "" if self.origin is None else self.origin.source,
            self.target,
            self.transport,
            self.sent_bytes,
            self.received_bytes,
            self._queue_s,
            self._handle_s,
            self._wall_s,
            self._model,
        )

    def _abandon(self, error: AgentbusError) -> None:
        callee = self.callee
        if not self.ended:
            self.fail(error)
            if callee is not None:
                callee.abandon(self, error)

    def _end(self, error: AgentbusError | None) -> Callee | None:
        """Note the end, and let go of the callee, which is returned."""
        self.ended = True
        self._error = error
        self._timer.cancel(self.deadline)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._inflow is not None:
            self._inflow.end(error)
            if self.feed is not None:
                self.feed.close()
            if self._outflow is not None:
                self._outflow.close()
        spans, origin = self._metrics.spans, self.origin
        if (
            spans is not None
            and origin is not None
            and (error is not None or origin.trace[KEPT_BY] >= spans.first)
        ):
            self._log(spans, origin, error)
        callee, self.callee = self.callee, None
        if self.loan is not None:
            # Without a callee nothing was sent, hence nothing spent.
            self.loan.close(NOTHING if callee is None else self._spent)
        return callee

    def _log(self, spans: SpanLog, origin: Origin, error: AgentbusError | None) -> None:
        if error is not None:
            self._queue_s = self._handle_s = 0.0
            self._model = NO_COST
        log_asked(spans, origin, self._account(), error)


def _amount(budget: tuple[int, int] | None) -> Amount | None:
    return None if budget is None else Amount(*budget)
