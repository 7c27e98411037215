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
from ..telemetry import HopAccount
from .deadlines import Deadline
from .payload import PayloadType, payload_type

__all__ = ["Pending", "Replies", "Reply", "ReplyStream"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
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

    def reply(self, value: Any, context: Context | None, account: HopAccount) -> None:
        """End the request with its reply."""
        ...

    def fail(self, error: AgentbusError) -> None:
        """End the request with an error."""
        ...


class Pending:
    """One request that this process waits for. Implements `Replies` for callees in process."""

    __slots__ = (
        "_buffer",
        "_cancel_callee",
        "_ended",
        "_future",
        "_loop",
        "_started",
        "account",
        "context",
        "deadline",
        "returns",
        "target",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        target: str,
        context: Context | None,
        returns: PayloadType | None,
        stream_limit: int = 0,
    ) -> None:
        self._loop = loop
        self._future: asyncio.Future[Reply[Any]] = loop.create_future()
        self._buffer = _PartBuffer(stream_limit) if stream_limit else None
        self._cancel_callee: Callable[[AgentbusError | None], None] | None = None
        self._ended = False
        self._started = perf_counter()
        self.target = target
        self.context = context
        self.returns = returns
        self.deadline: Deadline | None = None
        self.account: HopAccount | None = None
        """Set by a link: the account with the bytes that it counted."""

    @property
    def ended(self) -> bool:
        """Whether the request has ended."""
        return self._ended

    @property
    def streams(self) -> bool:
        """Whether the caller reads parts."""
        return self._buffer is not None

    def on_cancel(self, action: Callable[[AgentbusError | None], None]) -> None:
        """Set what tells the callee that nobody waits any more."""
        self._cancel_callee = action

    def part(self, value: Any) -> None:
        """Keep a part for the reader; ends the stream when too many wait."""
        buffer = self._buffer
        if self._ended or buffer is None:
            return
        if not buffer.push(payload_type(type(value)).receive(value)):
            self._abandon(StreamOverflow(self.target, buffer.limit))

    def reply(self, value: Any, context: Context | None, account: HopAccount) -> None:
        """End with a reply."""
        if self._ended:
            return
        value = (self.returns or payload_type(type(value))).receive(value)
        account.wall_s = perf_counter() - self._started
        self._end()
        if not self._future.done():
            self._future.set_result(Reply(value, context, account))

    def fail(self, error: AgentbusError) -> None:
        """End with an error."""
        if self._ended:
            return
        self._end()
        if not self._future.done():
            self._future.set_exception(error)

    def expire(self) -> None:
        """End since the deadline has passed; the callee is told."""
        self._abandon(DeadlineExceeded(self.target))

    async def wait(self) -> Reply[Any]:
        """Wait for the end. Cancelling the wait cancels the request."""
        try:
            return await self._future
        finally:
            self.drop()

    def drop(self) -> None:
        """End since the caller no longer waits; the callee is told."""
        if not self._ended:
            self._end()
            self._future.cancel()
            if self._cancel_callee is not None:
                self._cancel_callee(None)

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
            await buffer.wait(self._loop)
        return buffer.parts.popleft()

    def result(self) -> Reply[Any]:
        """Return the reply of a request that has ended with one."""
        return self._future.result()

    def discard(self) -> None:
        """Forget an error that nobody will look at."""
        if self._future.done() and not self._future.cancelled():
            self._future.exception()

    def _abandon(self, error: AgentbusError) -> None:
        if not self._ended:
            self.fail(error)
            if self._cancel_callee is not None:
                self._cancel_callee(error)

    def _end(self) -> None:
        self._ended = True
        if self.deadline is not None:
            self.deadline.cancel()
        if self._buffer is not None:
            # Wakes the reader once the future below is done, since callbacks run in order.
            self._loop.call_soon(self._buffer.wake)


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
        account = self._pending.account
        return 0 if account is None else account.sent_bytes

    @property
    def reply(self) -> Reply[Any]:
        """The reply, once all parts have been read."""
        return self._pending.result()
