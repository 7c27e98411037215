"""A place between two processes where their connections can be cut, stalled and refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

__all__ = ["Between"]


class _End(asyncio.Protocol):
    """One end of one connection that passes through."""

    def __init__(self, between: Between, *, accepted: bool) -> None:
        self.between = between
        self.accepted = accepted
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None
        self.waiting: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.between.accept(self)

    def data_received(self, data: bytes) -> None:
        self.between.passes(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.between.ends.discard(self)
        if self.other is not None and self.other.transport is not None:
            self.other.transport.abort()

    def write(self, data: bytes) -> None:
        if self.transport is None:
            self.waiting.append(data)
        elif not self.transport.is_closing():
            self.transport.write(data)


class Between:
    """Passes bytes on in both directions, until it is told otherwise."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""
        self.ends: set[_End] = set()
        self.accepted = 0
        """Connections that came."""
        self.refuses = False
        """New connections end at once."""
        self.stalled: set[bool] = set()
        """Directions, True for that from who connected, in which nothing passes any more."""
        self.left: int | None = None
        """Bytes that pass before all connections are cut, together in both directions."""

    def lead_to(self, target: str) -> None:
        """Lead new connections elsewhere; nowhere if that is empty."""
        self.target = target
        self.refuses = not target

    def cut(self) -> None:
        """End all connections, with what is under way on them."""
        for end in tuple(self.ends):
            if end.transport is not None:
                end.transport.abort()

    def accept(self, end: _End) -> None:
        """Take a new connection, or what leads on from one."""
        self.ends.add(end)
        if not end.accepted:
            return
        self.accepted += 1
        if self.refuses:
            cast(asyncio.Transport, end.transport).abort()
            return
        end.other = _End(self, accepted=False)
        end.other.other = end
        task = asyncio.get_running_loop().create_task(self._lead_on(end, end.other))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _lead_on(self, end: _End, onward: _End) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self.target.startswith("ab://"):
                host, _, port = self.target.removeprefix("ab://").rpartition(":")
                await loop.create_connection(lambda: onward, host, int(port))
            else:
                await loop.create_unix_connection(lambda: onward, self.target)
        except OSError:
            cast(asyncio.Transport, end.transport).abort()
            return
        for data in onward.waiting:
            onward.write(data)

    def passes(self, end: _End, data: bytes) -> None:
        """Pass on what came from one end."""
        if end.accepted in self.stalled or end.other is None:
            return
        if self.left is None:
            end.other.write(data)
            return
        end.other.write(data[: self.left])
        self.left -= len(data)
        if self.left <= 0:
            self.left = None
            asyncio.get_running_loop().call_soon(self._flush_and_cut)

    def _flush_and_cut(self) -> None:
        for end in tuple(self.ends):
            if end.transport is not None:
                end.transport.close()

    @classmethod
    @asynccontextmanager
    async def open(cls, target: str, path: str) -> AsyncIterator[Between]:
        """Stand in front of `target`: at `path`, or over tcp at a free port if it is a url."""
        between = cls(target)
        loop = asyncio.get_running_loop()

        def protocol() -> _End:
            return _End(between, accepted=True)

        if target.startswith("ab://"):
            server: asyncio.AbstractServer = await loop.create_server(protocol, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
            between.url = f"ab://127.0.0.1:{port}"
        else:
            server = await loop.create_unix_server(protocol, path)
            between.url = f"unix://{path}"
        try:
            yield between
        finally:
            server.close()
            between.cut()
            for task in tuple(between._tasks):
                task.cancel()
