"""One message on its way through one agent."""

from __future__ import annotations

from typing import Any, Protocol

from ..context import Context
from ..errors import AgentbusError, RequestCancelled
from ..telemetry import NO_COST, Amount
from .exchange import Pending
from .feed import FeedReader, FeedSink
from .origin import Origin
from .roles import Callee, Replies

__all__ = ["Cancellable", "Delivery"]


class Cancellable(Protocol):
    """What ends when a message does, as an `asyncio.Task`."""

    def cancel(self) -> object:
        """End it."""
        ...


class Delivery(Callee):
    """One message on its way through one agent: the callee of callers in process."""

    __slots__ = (
        "arrived",
        "context",
        "cost",
        "done",
        "feed",
        "interrupted",
        "origin",
        "payload",
        "peer",
        "replies",
        "schema",
        "task",
    )

    def __init__(
        self,
        payload: Any,
        schema: str,
        origin: Origin,
        context: Context | None,
        replies: Replies,
        peer: str = "",
    ) -> None:
        self.payload = payload
        """The object; if a peer sent it, its frames until the mailbox takes them."""
        self.schema = schema
        self.origin = origin
        self.context = context
        self.replies = replies
        self.peer = peer
        """The process that sent it; empty if it is this one."""
        self.arrived = 0.0
        """Set by who asks in this process, where the clock was read just before; else by the mailbox."""
        self.done = False
        self.cost = NO_COST
        self.feed: FeedReader | None = None
        """What the caller feeds along with a streamed request."""
        self.interrupted: AgentbusError | None = None
        """Why `cancel` was called, if it was."""
        self.task: Cancellable | None = None
        """Cancelled with it: the task that handles it now; before, what is done for it ahead."""

    @property
    def spent(self) -> Amount | None:
        """What handling it has used of its budget; None if it has none."""
        ledger = self.origin.ledger
        return None if ledger is None else ledger.used

    def cancel(self, reason: AgentbusError) -> None:
        """Stop handling this message, or never start."""
        if self.done:
            return
        self.done = True
        self.interrupted = reason
        if self.task is not None:
            self.task.cancel()

    def let_go(self, replies: Replies) -> None:
        """Another agent answers from here on, and gets what the caller feeds."""
        self.replies = replies
        if self.feed is not None:
            self.feed.end()

    def abandon(self, pending: Pending, reason: AgentbusError | None) -> None:
        """Nobody waits for the reply any more."""
        self.cancel(reason or RequestCancelled(pending.target))

    def open_feed(self) -> FeedReader:
        """Take what the caller of a streamed request feeds along with it."""
        self.feed = FeedReader()
        return self.feed

    def release(self, pending: Pending) -> None:
        """Nothing to do: the handler itself has let go."""

    def grant(self, pending: Pending, count: int) -> None:
        """Nothing to do: in a process the reader lets its own writer go on."""

    def feed_sink(self, pending: Pending) -> FeedSink:
        """Return this: the feed of a caller in process comes here."""
        return self

    def write(self, value: Any) -> None:
        """Take one part of the feed."""
        if self.feed is not None and not self.done:
            self.feed.take(value)

    def finish(self) -> None:
        """The caller has fed all."""
        if self.feed is not None:
            self.feed.end()

    def acknowledge(self, answer: object = None) -> None:
        """End the request with an answer, or with an empty reply."""
        self.done = True
        self.replies.reply(answer, self.context, 0.0, 0.0, NO_COST, self.spent)
