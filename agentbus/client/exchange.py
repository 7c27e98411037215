"""The caller's side of one request: it ends exactly once, with a reply or a typed error."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from ..context import Context
from ..errors import AgentbusError, DeadlineExceeded, StreamOverflow
from ..telemetry import HopAccount, Metrics, ModelCost
from .deadlines import DeadlineTimer
from .payload import PayloadType, payload_type

__all__ = ["Callee", "Pending", "Replies", "Reply", "ReplyStream"]

T = TypeVar("T")


@dataclass(slots=True)
class Reply(Generic[T]):
    """What a call came back with."""

    value: T
    context: Context | None
    """The context as it now is; None if the call carried none and the callee made none."""
    account: HopAccount


class Replies(Protocol):
    """Where a handler's results go: to a caller in this process, or back over a link."""

    def part(self, value: Any) -> None:
        """Pass one part of a streamed reply on."""
        ...

    def reply(
        self,
        value: Any,
        context: Context | None,
        queue_s: float,
        handle_s: float,
        model: ModelCost,
    ) -> None:
        """End the request with its reply and what it cost; see `HopAccount`."""
        ...

    def fail(self, error: AgentbusError) -> None:
        """End the request with an error."""
        ...


class Callee(Protocol):
    """Who was asked: a message in this process, or a link."""

    def abandon(self, pending: Pending, reason: AgentbusError | None) -> None:
        """Nobody waits for `pending` any more: stop working on it."""
        ...


class Pending:
    """One request that this process waits for. Implements `Replies` for callees in process."""

    __slots__ = (
        "_buffer",
        "_future",
        "_handle_s",
        "_metrics",
        "_model",
        "_queue_s",
        "_started",
        "_timer",
        "_wall_s",
        "callee",
        "context",
        "deadline",
        "ended",
        "id",
        "received_bytes",
        "returns",
        "sent_bytes",
        "source",
        "target",
        "transport",
    )

    def __init__(
        self,
        timer: DeadlineTimer,
        metrics: Metrics,
        target: str,
        context: Context | None,
        returns: PayloadType | None,
        stream_limit: int = 0,
    ) -> None:
        self._timer = timer
        self._metrics = metrics
        self._future: asyncio.Future[Any] = timer.loop.create_future()
        """The reply's value; what it cost is beside it, and made an account of if one is asked for."""
        self._buffer = _PartBuffer(stream_limit) if stream_limit else None
        self._started = perf_counter()
        self.target = target
        self.context = context
        self.returns = returns
        self.ended = False
        self.callee: Callee | None = None
        """Set once the request was sent, until it ends."""
        self.deadline = 0
        """Its number at the timer."""
        # What follows is set by who sends it.
        self.id = 0
        self.source = ""
        self.transport = "inproc"
        self.sent_bytes = 0
        self.received_bytes = 0

    @property
    def streams(self) -> bool:
        """Whether the caller reads parts."""
        return self._buffer is not None

    def part(self, value: Any) -> None:
        """Keep a part for the reader; ends the stream when too many wait."""
        buffer = self._buffer
        if not self.ended and buffer is not None:
            self.take_part(payload_type(type(value)).receive(value))

    def take_part(self, value: Any) -> None:
        """Keep a part that is the caller's own already, since it came over a link."""
        buffer = self._buffer
        if self.ended or buffer is None:
            return
        if not buffer.push(value):
            self._abandon(StreamOverflow(self.target, buffer.limit))

    def reply(
        self,
        value: Any,
        context: Context | None,
        queue_s: float,
        handle_s: float,
        model: ModelCost,
    ) -> None:
        """End with a reply."""
        if not self.ended:
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
        self._wall_s = perf_counter() - self._started
        self.context = context
        self._queue_s = queue_s
        self._handle_s = handle_s
        self._model = model
        self._end()
        if not self._future.done():
            self._future.set_result(value)

    def fail(self, error: AgentbusError) -> None:
        """End with an error."""
        if self.ended:
            return
        self._metrics.failed(error.code)
        self._end()
        if not self._future.done():
            self._future.set_exception(error)

    def expire(self) -> None:
        """End since the deadline has passed; the callee is told."""
        self._abandon(DeadlineExceeded(self.target))

    async def wait(self) -> Any:
        """Wait for the end and return the value. Cancelling the wait cancels the request."""
        try:
            return await self._future
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        """End since the caller no longer waits; the callee is told."""
        if not self.ended:
            callee = self._end()
            self._future.cancel()
            if callee is not None:
                callee.abandon(self, None)

    async def next_part(self) -> Any:
        """Return the next part.

        Raises:
            StopAsyncIteration: the reply has come and all parts are read.
        """
        buffer = self._buffer
        if buffer is None:
            raise StopAsyncIteration
        while not buffer.parts:
            if self._future.done():
                self._future.result()
                raise StopAsyncIteration
            await buffer.wait(self._timer.loop)
        return buffer.parts.popleft()

    def result(self) -> Reply[Any]:
        """Return the reply of a request that has ended with one."""
        value = self._future.result()
        account = HopAccount(
            self.source,
            self.target,
            self.transport,
            self.sent_bytes,
            self.received_bytes,
            self._queue_s,
            self._handle_s,
            self._wall_s,
            self._model,
        )
        return Reply(value, self.context, account)

    def discard(self) -> None:
        """Forget an error that nobody will look at."""
        if self._future.done() and not self._future.cancelled():
            self._future.exception()

    def _abandon(self, error: AgentbusError) -> None:
        callee = self.callee
        if not self.ended:
            self.fail(error)
            if callee is not None:
                callee.abandon(self, error)

    def _end(self) -> Callee | None:
        """Note the end, and let go of the callee, which is returned."""
        self.ended = True
        self._timer.cancel(self.deadline)
        if self._buffer is not None:
            # Wakes the reader once the future below is done, since callbacks run in order.
            self._timer.loop.call_soon(self._buffer.wake)
        callee, self.callee = self.callee, None
        return callee


class _PartBuffer:
    """Parts that wait for one reader. Overflow ends the stream, nothing is dropped unseen."""

    __slots__ = ("_waiter", "limit", "parts")

    def __init__(self, limit: int) -> None:
        self.parts: deque[Any] = deque()
        self.limit = limit
        self._waiter: asyncio.Future[None] | None = None

    def push(self, value: Any) -> bool:
        if len(self.parts) >= self.limit:
            return False
        self.parts.append(value)
        self.wake()
        return True

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class ReplyStream(Generic[T]):
    """A streamed reply: iterate over its parts, then look at `reply`.

    Use it in `async with`: leaving the block early cancels the request.
    """

    __slots__ = ("_pending", "_start")

    def __init__(self, pending: Pending, start: Callable[[], Any]) -> None:
        self._pending = pending
        self._start = start

    async def __aenter__(self) -> ReplyStream[T]:
        await self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pending.drop()
        self._pending.discard()

    def __aiter__(self) -> ReplyStream[T]:
        return self

    async def __anext__(self) -> T:
        part: T = await self._pending.next_part()
        return part

    @property
    def sent_bytes(self) -> int:
        """Bytes sent so far for this request; 0 within a process."""
        return self._pending.sent_bytes

    @property
    def received_bytes(self) -> int:
        """Bytes received so far for this request; 0 within a process."""
        return self._pending.received_bytes

    @property
    def reply(self) -> Reply[Any]:
        """The reply, once all parts have been read."""
        return self._pending.result()
