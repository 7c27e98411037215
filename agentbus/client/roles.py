"""Who takes part in a request: who is answered, who was asked, and what waits for a link's answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mypy_extensions import trait

from ..context import Context
from ..errors import AgentbusError
from ..messages import Envelope
from ..telemetry import Amount, ModelCost
from ..wire import Buffer, Frames
from .feed import FeedSink
from .types import TypeTable

if TYPE_CHECKING:
    from .exchange import Pending
    from .node import Node
    from .offer import Offer
    from .peer import Peer

__all__ = ["Awaiting", "Callee", "Replies"]


@trait
class Replies:
    """Where a handler's results go: to a caller in this process, or back over a link."""

    __slots__ = ()

    def part(self, value: Any) -> bool:
        """Pass one part of a streamed reply on. Returns whether another may follow at once."""
        raise NotImplementedError

    async def writable(self) -> None:
        """Wait until another part may follow, or until nobody wants any."""
        raise NotImplementedError

    def grant_feed(self, count: int) -> None:
        """The handler takes so many parts more of what the caller feeds it."""
        raise NotImplementedError

    def reply(
        self,
        value: Any,
        context: Context | None,
        queue_s: float,
        handle_s: float,
        model: ModelCost,
        spent: Amount | None,
    ) -> None:
        """End the request with its reply and what it cost; see `HopAccount`.

        `spent` is what a request with a budget has used of that.
        """
        raise NotImplementedError

    def fail(self, error: AgentbusError, spent: Amount | None = None) -> None:
        """End the request with an error."""
        raise NotImplementedError


@trait
class Callee:
    """Who was asked: a message in this process, or a link."""

    __slots__ = ()

    def abandon(self, pending: Pending, reason: AgentbusError | None) -> None:
        """Nobody waits for `pending` any more: stop working on it."""
        raise NotImplementedError

    def grant(self, pending: Pending, count: int) -> None:
        """So many more parts are welcome."""
        raise NotImplementedError

    def release(self, pending: Pending) -> None:
        """Somebody else answers `pending` from here on."""
        raise NotImplementedError

    def feed_sink(self, pending: Pending) -> FeedSink:
        """Return where the parts go that the caller feeds to the handler."""
        raise NotImplementedError


@trait
class Awaiting:
    """A request that was sent over a link and has not ended."""

    __slots__ = ("context", "id", "received_bytes", "sent_bytes")

    id: int
    context: Context | None
    sent_bytes: int
    received_bytes: int

    def replied(self, envelope: Envelope, context: Context | None, types: TypeTable) -> None:
        """Take the reply; `context` is the one that came with it, or the request's own."""
        raise NotImplementedError

    def replied_in_short(
        self, schema: str, frame: Buffer, queue_s: float, handle_s: float, types: TypeTable
    ) -> None:
        """Take a reply that came together with others: one frame, no context, no model call."""
        raise NotImplementedError

    def parted(self, schema: str, frames: Frames, types: TypeTable) -> None:
        """Take parts of the reply's stream."""
        raise NotImplementedError

    def grant_feed(self, count: int) -> None:
        """The handler takes so many parts more of what the caller feeds it."""
        raise NotImplementedError

    def accepted(self) -> None:
        """The agent has it in its mailbox."""
        raise NotImplementedError

    def hand_over(self, peer: Peer, offer: Offer, node: Node) -> None:
        """Ask another agent, since the one that was asked wants it.

        Raises:
            AgentbusError: that cannot be.
        """
        raise NotImplementedError

    def fail(self, error: AgentbusError, spent: Amount | None = None) -> None:
        """End with an error; `spent` is what it used of its budget, if it has one and that is known."""
        raise NotImplementedError
