"""One subscriber's view of topics: a bounded queue that drops its oldest when it is full."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from ..errors import AgentbusError, Closed

__all__ = ["Published", "Subscription"]


class Published(NamedTuple):
    """One message on a topic. `source` is the publishing agent; empty for a program."""

    topic: str
    value: Any
    source: str


class Subscription:
    """Messages on topics that match `pattern`. Use in `async with`, iterate over it.

    The iteration ends when the bus closes, and raises `PeerLost` when the process that the bus
    joined goes away; what had come before is read first.
    """

    def __init__(
        self,
        pattern: str,
        limit: int,
        enter: Callable[[Subscription], Awaitable[None]],
        leave: Callable[[Subscription], Awaitable[None]],
    ) -> None:
        self.pattern = pattern
        self.dropped = 0
        """Messages that this subscriber was too slow for."""
        self._queue: deque[Published] = deque(maxlen=limit)
        self._waiter: asyncio.Future[None] | None = None
        self._enter = enter
        self._leave = leave
        self._closed = False
        self._error: AgentbusError | None = None

    async def __aenter__(self) -> Self:
        await self._enter(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        await self._leave(self)

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Published:
        while not self._queue:
            if self._error is not None:
                raise self._error
            if self._closed:
                raise StopAsyncIteration
            if self._waiter is not None:
                raise Closed("subscription for a second reader")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._queue.popleft()

    def deliver(self, messages: Sequence[Published]) -> None:
        """Queue messages; drops the oldest ones if the queue is full."""
        queue = self._queue
        before = len(queue)
        queue.extend(messages)
        self.dropped += before + len(messages) - len(queue)
        self._wake()

    def close(self, error: AgentbusError | None = None) -> None:
        """End the iteration once the queue is empty, with `error` if there is one."""
        self._closed = True
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
