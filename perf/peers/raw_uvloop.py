"""The floor: two processes, a Unix stream socket, `asyncio.Protocol` on uvloop, nothing else.

Messages are `PAYLOAD_BYTES` long and know no other framing; no types, no mailbox, no deadline.
`python -m perf.peers.raw_uvloop PATH` is the echoing side. With `polling` after it, and in
`contend_polling`, a side does not sleep while messages come: the floor for who polls.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter_ns
from typing import cast

import uvloop

from ..children import announce_and_wait, python_child
from ..ticker import ticking
from ..workloads import MAX_OUTSTANDING, NS_PER_S, PAYLOAD_BYTES, Contender, Schedule

__all__ = ["contend", "contend_polling", "serve"]

MESSAGE = bytes(PAYLOAD_BYTES)


_POLLING = "polling"
_AWAKE_NS = 5_000_000
"""So long after the last message a polling side sleeps, since other contenders take their turns."""


class _Awake:
    """Keeps the loop from sleeping while messages come."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = 0
        self._polling = False

    def touch(self) -> None:
        """Note a message."""
        self._until = perf_counter_ns() + _AWAKE_NS
        if not self._polling:
            self._polling = True
            self._loop.call_soon(self._poll)

    def _poll(self) -> None:
        self._polling = perf_counter_ns() < self._until
        if self._polling:
            os.sched_yield()
            self._loop.call_soon(self._poll)


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


class _PollingEcho(_Echo):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._awake = _Awake()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._awake.touch()


class _Pinger(asyncio.Protocol):
    """Sends a message for each that comes back, until the time is up."""

    def __init__(self) -> None:
        self._partial = 0
        self._in_flight = 0
        self._replies = 0
        self._sent = 0
        self._end = 0
        self._taken: list[int] = []
        self._over: asyncio.Future[None] | None = None
        self._due: deque[int] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_exception(exc or ConnectionResetError("the echoing side went away"))

    def data_received(self, data: bytes) -> None:
        count, self._partial = divmod(self._partial + len(data), PAYLOAD_BYTES)
        now = perf_counter_ns()
        self._replies += count
        self._in_flight -= count
        if self._due:
            self._taken += [now - self._due.popleft() for _ in range(count)]
            return
        if self._in_flight == 0:
            self._taken.append(now - self._sent)
        if now < self._end:
            self._send(count)
        elif self._in_flight == 0 and self._over is not None:
            self._over.set_result(None)

    def _send(self, count: int) -> None:
        self._in_flight += count
        self._sent = perf_counter_ns()
        self._transport.write(MESSAGE * count)

    async def _run(self, seconds: float, in_flight: int) -> None:
        self._replies, self._taken = 0, []
        self._over = asyncio.get_running_loop().create_future()
        self._end = perf_counter_ns() + int(seconds * NS_PER_S)
        self._send(in_flight)
        await self._over

    async def latencies(self, seconds: float) -> list[int]:
        """Bounce one message."""
        await self._run(seconds, 1)
        return self._taken

    async def rate(self, seconds: float, in_flight: int) -> float:
        """Bounce `in_flight` messages; what arrives together is answered together."""
        start = perf_counter_ns()
        await self._run(seconds, in_flight)
        return self._replies * NS_PER_S / (perf_counter_ns() - start)

    async def open_loop(self, seconds: float, per_second: float) -> list[int]:
        """Send each message when it is due."""
        self._taken = []
        schedule = Schedule(seconds, per_second)
        with ticking(schedule.gap_ns) as ticker:
            while self._due or not schedule.over:
                await ticker.wait()
                due = schedule.take_due(MAX_OUTSTANDING - self._in_flight)
                if due:
                    self._due += due
                    self._send(len(due))
        return self._taken


class _PollingPinger(_Pinger):
    def __init__(self) -> None:
        super().__init__()
        self._awake = _Awake()

    def _send(self, count: int) -> None:
        super()._send(count)
        self._awake.touch()


def contend() -> AbstractAsyncContextManager[Contender]:
    """Start the echoing side and connect to it."""
    return _connected()


def contend_polling() -> AbstractAsyncContextManager[Contender]:
    """As `contend`; both sides poll."""
    return _connected(_POLLING)


@asynccontextmanager
async def _connected(*mode: str) -> AsyncGenerator[Contender, None]:
    with TemporaryDirectory(prefix="perf-") as folder:
        path = str(Path(folder, "raw.sock"))
        async with python_child("raw_uvloop's echo", "perf.peers.raw_uvloop", path, *mode):
            loop = asyncio.get_running_loop()
            kind = _PollingPinger if mode else _Pinger
            transport, pinger = await loop.create_unix_connection(kind, path)
            try:
                yield pinger
            finally:
                transport.close()


async def serve(path: str, *mode: str) -> None:
    """Echo whatever comes in on the socket `path` until the parent leaves."""
    kind = _PollingEcho if mode else _Echo
    server = await asyncio.get_running_loop().create_unix_server(kind, path)
    async with server:
        await announce_and_wait()


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
