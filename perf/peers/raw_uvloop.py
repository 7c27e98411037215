"""The floor: two processes, a Unix stream socket, `asyncio.Protocol` on uvloop, nothing else.

Messages are `PAYLOAD_BYTES` long and know no other framing; no types, no mailbox, no deadline.
`python -m perf.peers.raw_uvloop PATH` is the echoing side.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter_ns
from typing import cast

import uvloop

from ..children import announce_and_wait, python_child
from ..workloads import NS_PER_S, PAYLOAD_BYTES, Contender

__all__ = ["contend", "serve"]

MESSAGE = bytes(PAYLOAD_BYTES)


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


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


@asynccontextmanager
async def contend() -> AsyncGenerator[Contender, None]:
    """Start the echoing side and connect to it."""
    with TemporaryDirectory(prefix="perf-") as folder:
        path = str(Path(folder, "raw.sock"))
        async with python_child("raw_uvloop's echo", "perf.peers.raw_uvloop", path):
            loop = asyncio.get_running_loop()
            transport, pinger = await loop.create_unix_connection(_Pinger, path)
            try:
                yield pinger
            finally:
                transport.close()


async def serve(path: str) -> None:
    """Echo whatever comes in on the socket `path` until the parent leaves."""
    server = await asyncio.get_running_loop().create_unix_server(_Echo, path)
    async with server:
        await announce_and_wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
