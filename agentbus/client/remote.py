"""Another process: the link to it, and the requests under way on that link in both directions."""

from __future__ import annotations

import struct
from typing import Any

import msgpack

from ..context import Context
from ..errors import AgentbusError, DeadlineExceeded, MalformedFrame, RequestCancelled
from ..messages import Envelope, Kind
from ..telemetry import NO_COST, ModelCost
from ..transport import Link
from ..wire import failure_envelope
from .busy_poll import BusyPoll
from .contexts import ContextExchange, PeerContexts
from .deadlines import DeadlineTimer
from .exchange import Pending
from .mailbox import Delivery
from .payload import payload_type

__all__ = ["Peer", "RemoteReplies", "read_cost"]

# An enum's member costs 0.2 µs to look up on Python 3.11, and these are for every envelope.
_REPLY = Kind.REPLY
_PART = Kind.PART
_TIMES = struct.Struct(">dd")
"""Seconds in the mailbox and in the handler; behind them the model calls' cost, if there were."""


class Peer:
    """One link and what is under way on it. Implements `Callee` for requests that it carries."""

    __slots__ = (
        "contexts",
        "exchange",
        "incoming",
        "last_id",
        "link",
        "name",
        "outgoing",
        "poll",
        "timer",
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
        self.contexts = PeerContexts()
        self.outgoing: dict[int, Pending] = {}
        self.incoming: dict[int, RemoteReplies] = {}
        self.last_id = 0

    def abandon(self, pending: Pending, reason: AgentbusError | None) -> None:
        """Tell the peer that nobody waits for a reply any more."""
        if self.outgoing.pop(pending.id, None) is not None:
            self.contexts.forget(Kind.REPLY, pending.id)
            try:
                self.link.send(Envelope(Kind.CANCEL, pending.id))
            except AgentbusError:
                self.link.abort()


class RemoteReplies:
    """Sends a handler's results back over a link. Implements `Replies`."""

    __slots__ = ("_context", "_id", "_open", "_peer", "deadline", "delivery")

    def __init__(self, peer: Peer, request: int, context: Context | None) -> None:
        self._peer = peer
        self._id = request
        self._context = context
        self._open = True
        self.deadline = 0
        """Its number at the timer."""
        self.delivery: Delivery | None = None
        """The message that this answers, until it is answered."""

    def part(self, value: Any) -> None:
        """Send one part."""
        if self._open:
            kind = payload_type(type(value))
            payloads = kind.encode(value)
            self._peer.link.send(Envelope(_PART, self._id, schema=kind.name, payloads=payloads))

    def reply(
        self,
        value: Any,
        context: Context | None,
        queue_s: float,
        handle_s: float,
        model: ModelCost,
    ) -> None:
        """Send the reply; the context goes along if the handler changed it."""
        if not self._open:
            return
        peer = self._peer
        try:
            kind = payload_type(type(value))
            packed = b""
            if context is not None and context != self._context:
                packed = peer.exchange.outgoing(peer.contexts, context, engine=False)
            payloads = (_pack_cost(queue_s, handle_s, model), *kind.encode(value))
            peer.link.send(
                Envelope(_REPLY, self._id, "", "", kind.name, False, -1, 0, b"", packed, payloads)
            )
            peer.poll.sent()
            self._end()
        except AgentbusError as error:
            self.fail(error)

    def fail(self, error: AgentbusError) -> None:
        """Send the error."""
        if not self._open:
            return
        self._end()
        try:
            self._peer.link.send(failure_envelope(self._id, error))
        except AgentbusError:
            # The caller must not wait for ever: with the link gone it gets PeerLost.
            self._peer.link.abort()

    def expire(self) -> None:
        """End since the deadline has passed."""
        if self.delivery is not None:
            self.delivery.cancel(DeadlineExceeded(""))
        self.fail(DeadlineExceeded(""))

    def drop(self) -> None:
        """End since nobody waits for a reply."""
        if self.delivery is not None:
            self.delivery.cancel(RequestCancelled(""))
        self._end()

    def _end(self) -> None:
        peer = self._peer
        self._open = False
        self.delivery = None
        peer.timer.cancel(self.deadline)
        peer.incoming.pop(self._id, None)


def _pack_cost(queue_s: float, handle_s: float, model: ModelCost) -> bytes:
    times = _TIMES.pack(queue_s, handle_s)
    if model.calls:
        times += msgpack.packb(model.pack())
    return times


def read_cost(frame: bytes | memoryview) -> tuple[float, float, ModelCost]:
    """Return what the callee measured: `queue_s`, `handle_s` and its model calls' cost.

    Raises:
        MalformedFrame: the frame does not say.
    """
    try:
        queue_s, handle_s = _TIMES.unpack_from(frame)
        model = NO_COST
        if len(frame) > _TIMES.size:
            model = ModelCost.unpack(msgpack.unpackb(frame[_TIMES.size :]))
    except (ValueError, TypeError, struct.error, msgpack.UnpackException) as error:
        raise MalformedFrame(f"the account of a reply: {error}") from error
    return queue_s, handle_s, model
