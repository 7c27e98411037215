"""What all agents of one class have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..telemetry import SpanLog, TimeLog
from .call import Call
from .delivery import Delivery
from .pool import WorkerPool
from .spec import HandlerSpec

if TYPE_CHECKING:
    from .node import Node

__all__ = ["Blueprint"]


class Blueprint:
    """What the mailboxes of all agents of one class with one model share.

    A message to one of many agents finds here, where the last one to any of them left it in the
    processor's cache, what would lie in cold memory if each agent had its own.
    """

    __slots__ = (
        "clock",
        "handlers",
        "limit",
        "log",
        "model",
        "node",
        "pool",
        "role",
        "spans",
        "watchers",
    )

    def __init__(
        self,
        *,
        handlers: Mapping[str, HandlerSpec],
        model: str,
        role: str,
        node: Node,
        watchers: tuple[Callable[[Call, Any], object], ...],
        pool: WorkerPool,
        limit: int,
        log: TimeLog,
        clock: Callable[[], float],
        spans: SpanLog | None,
    ) -> None:
        self.handlers = handlers
        """By the schema of what each accepts."""
        self.model = model
        self.role = role
        self.node = node
        self.watchers = watchers
        """Are called with each message that a handler begins with."""
        self.pool = pool
        self.limit = limit
        """Messages that may wait in one mailbox."""
        self.log = log
        self.clock = clock
        self.spans = spans
        """None if nothing is to be measured: then times are not kept either."""

    def call(self, agent: str, delivery: Delivery) -> Call:
        """Return what the handler of an agent of that name gets along with a message."""
        call = Call(self.node, agent, self.model, self.role, delivery)
        for watcher in self.watchers:
            watcher(call, delivery.payload)
        return call
