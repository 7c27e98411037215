"""The caller's view of a streamed request: parts of the reply to read, parts to feed to the handler."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

from ..errors import Closed
from .exchange import Pending
from .feed import FeedWriter
from .reply import Reply
from .tee import Tee

__all__ = ["ReplyStream"]

T = TypeVar("T")


class ReplyStream(Generic[T]):
    """A streamed reply: iterate over its parts, then look at `reply`.

    Use it in `async with`: leaving the block early cancels the request. What the handler reads by
    `Call.feed` is sent by `send`, and ended by `finish`.
    """

    __slots__ = ("_entered", "_pending", "_start")

    def __init__(self, pending: Pending, start: Callable[[], Any]) -> None:
        self._pending = pending
        self._start = start
        self._entered = False

    async def __aenter__(self) -> ReplyStream[T]:
        self._entered = True
        await self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pending.drop()

    def __aiter__(self) -> ReplyStream[T]:
        return self

    async def __anext__(self) -> T:
        if not self._entered:
            raise Closed("stream (enter it with 'async with bus.stream(…) as parts')")
        part: T = await self._pending.next_part()
        return part

    def tee(self, count: int, *, limit: int = 1024) -> tuple[AsyncIterator[T], ...]:
        """Return so many readers, each of which gets every part; read through them alone.

        The stream is read as fast as the quickest of them reads. One that falls more than `limit`
        parts behind gets `StreamOverflow`, and holds up nobody.
        """
        return Tee(self, count, limit).readers

    async def send(self, value: Any) -> None:
        """Feed one part to the handler; waits until the handler reads it, or nearly.

        Raises:
            Closed: the feed was finished, or the request has ended.
            InvalidMessage, TooLarge: the part cannot be sent.
        """
        await self._feed().send(value)

    def finish(self) -> None:
        """Say that nothing more will be fed to the handler."""
        self._feed().finish()

    def _feed(self) -> FeedWriter:
        if self._pending.feed is None:
            raise Closed("feed")
        return self._pending.feed

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
        """The reply, once all parts have been read.

        Raises:
            Closed: it has not come yet.
            AgentbusError: the request ended with this error.
        """
        if not self._pending.ended:
            raise Closed("reply (read all parts first: it has not come yet)")
        return self._pending.result()
