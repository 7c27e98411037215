"""The stream that goes with a request, from the caller to the handler.

It begins with no credit: nothing is sent before the handler asks for it with `Call.feed`, so a
handler that does not read cannot be flooded, and needs no place for what it never takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..errors import AgentbusError, Closed, InvalidMessage, MalformedFrame
from ..wire import Frames, count_batch
from .flow import Inflow, Outflow
from .payload import PayloadType

__all__ = ["FeedReader", "FeedSink", "FeedWriter"]


class FeedSink(Protocol):
    """Takes a feed's parts on their way: to a handler in this process, or over a link."""

    def write(self, value: Any) -> None:
        """Pass one part on."""
        ...

    def finish(self) -> None:
        """Say that there are no more."""
        ...


class FeedWriter:
    """The caller's end."""

    __slots__ = ("_closed", "_finished", "_outflow", "_sink")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._outflow = Outflow(loop, 0, self._write)
        self._sink: FeedSink | None = None
        self._finished = False
        self._closed = False

    def connect(self, sink: FeedSink) -> None:
        """Say where parts go, once the request was sent, and again when it was handed over."""
        self._sink = sink
        if self._finished:
            sink.finish()

    def grant(self, count: int) -> None:
        """The handler takes so many parts more."""
        self._outflow.grant(count)

    async def send(self, value: Any) -> None:
        """Send one part as soon as the handler takes it.

        Raises:
            Closed: the feed was finished, or its request has ended.
            InvalidMessage: the part cannot be written.
        """
        self._check()
        await self._outflow.writable()
        self._check()
        self._outflow.push(value)

    def finish(self) -> None:
        """Say that no more will come; harmless if the request has ended."""
        if not self._finished and not self._closed and self._sink is not None:
            self._sink.finish()
        self._finished = True

    def close(self) -> None:
        """The request has ended."""
        self._closed = True
        self._outflow.close()

    def _write(self, value: Any) -> None:
        if self._sink is not None:
            self._sink.write(value)

    def _check(self) -> None:
        if self._finished or self._closed or self._sink is None:
            raise Closed("feed of a request that has ended" if self._closed else "feed")


class FeedReader:
    """The handler's end. Parts come only after `open`, its end may come before."""

    __slots__ = ("_inflow", "_kind", "ended")

    def __init__(self) -> None:
        self._inflow: Inflow | None = None
        self._kind: PayloadType | None = None
        self.ended = False
        """The caller has sent all."""

    @property
    def opened(self) -> bool:
        """Whether somebody has asked for parts."""
        return self._inflow is not None

    def open(
        self,
        loop: asyncio.AbstractEventLoop,
        kind: PayloadType,
        window: int,
        grant: Callable[[int], None],
    ) -> Inflow:
        """Ask for the first parts, and return them as they come.

        Raises:
            Closed: somebody reads already.
        """
        if self._inflow is not None:
            raise Closed("feed for a second reader")
        self._kind = kind
        inflow = self._inflow = Inflow(loop, window, grant)
        if self.ended:
            inflow.end()
        else:
            grant(window)
        return inflow

    def take(self, value: Any) -> None:
        """Take a part that a caller in this process sent, as `take_batch`."""
        self._keep(1, lambda kind: (kind.receive(value),))

    def take_batch(self, frames: Frames) -> None:
        """Take parts that came over a link. What does not fit ends the feed for its reader.

        Raises:
            MalformedFrame: they are no batch, or more than were asked for; none was decoded.
        """
        self._keep(count_batch(frames), lambda kind: kind.decode_batch(frames))

    def _keep(self, count: int, read: Callable[[PayloadType], Sequence[Any]]) -> None:
        if self._inflow is None or self._kind is None:
            raise MalformedFrame("parts of a feed came that nobody asked for")
        self._inflow.spend(count)
        try:
            values = read(self._kind)
        except InvalidMessage as error:
            self._inflow.end(error)
        else:
            self._inflow.put(values)

    def end(self, error: AgentbusError | None = None) -> None:
        """The caller has sent all."""
        self.ended = True
        if self._inflow is not None:
            self._inflow.end(error)
