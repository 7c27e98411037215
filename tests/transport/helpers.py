"""An owner that remembers, and peers that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import zmq

from agentbus.config import Keys, Limits
from agentbus.messages import Envelope
from agentbus.testing.contracts.transport import HELLO_A, HELLO_B, LinkPair, Recorder, request_of
from agentbus.transport import Link, Listener, connect_unix, listen_unix
from agentbus.transport.zmq_connect import connect_tcp
from agentbus.transport.zmq_listen import listen_tcp
from agentbus.wire import Decoder, Hello, Session

__all__ = [
    "CLIENT",
    "HELLO_A",
    "HELLO_B",
    "LIMITS",
    "LOOPBACK",
    "SERVER",
    "Pair",
    "RawPeer",
    "Recorder",
    "connected",
    "connected_tcp",
    "new_keys",
    "raw_peer",
    "raw_server",
    "raw_tcp_server",
    "request",
]

Pair = LinkPair
request = request_of
LIMITS = Limits()
LOOPBACK = "ab://127.0.0.1:0"


def new_keys(server: str = "", **authorized: str) -> Keys:
    """Make a key pair that knows some others' public keys."""
    public, secret = (key.decode() for key in zmq.curve_keypair())
    return Keys(public=public, secret=secret, server=server, authorized=authorized)


SERVER = new_keys()
CLIENT = new_keys(SERVER.public)
SERVER = replace(SERVER, authorized={"client": CLIENT.public})


@asynccontextmanager
async def connected(
    path: str, a: Recorder, b: Recorder, limits: Limits
) -> AsyncIterator[tuple[Link, Link]]:
    async with await listen_unix(path, b, HELLO_B, limits):
        link_a = await connect_unix(path, a, HELLO_A, limits, timeout=5)
        await b.until_opened()
        try:
            yield link_a, b.links[0]
        finally:
            link_a.abort()
            await link_a.aclose()
            await b.links[0].aclose()


@asynccontextmanager
async def connected_tcp(
    a: Recorder, b: Recorder, limits: Limits
) -> AsyncIterator[tuple[Link, Link, Listener]]:
    async with await listen_tcp(LOOPBACK, b, HELLO_B, limits, keys=SERVER) as listener:
        link_a = await connect_tcp(listener.path, a, HELLO_A, limits, keys=CLIENT, timeout=5)
        await b.until_opened()
        try:
            yield link_a, b.links[0], listener
        finally:
            with anyio.CancelScope(shield=True):
                link_a.abort()
                await link_a.aclose()
                await b.links[0].aclose()


class RawPeer:
    """Speaks bytes to a listener, well or badly."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def hello(self) -> None:
        self.writer.write(Session(Hello("raw"), LIMITS).opening())

    async def read_to_end(self) -> list[Envelope]:
        """What the listener said until it hung up."""
        with anyio.fail_after(10):
            return Decoder(LIMITS).feed(await self.reader.read())


@asynccontextmanager
async def raw_peer(path: str) -> AsyncIterator[RawPeer]:
    peer = RawPeer(*await asyncio.open_unix_connection(path))
    try:
        yield peer
    finally:
        peer.writer.transport.abort()


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw_server(path: str, answer: bytes | None) -> AsyncIterator[None]:
    """Answers every connection with bytes and hangs up, or with None never answers."""
    async with _answering(answer, lambda accept: asyncio.start_unix_server(accept, path)):
        yield


@asynccontextmanager
async def raw_tcp_server(answer: bytes | None) -> AsyncIterator[str]:
    """The same over tcp; yields the url."""
    async with _answering(
        answer, lambda accept: asyncio.start_server(accept, "127.0.0.1", 0)
    ) as server:
        yield f"ab://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def _answering(
    answer: bytes | None, start: Callable[[Answer], Awaitable[asyncio.Server]]
) -> AsyncIterator[asyncio.Server]:
    writers = []

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        if answer is not None:
            writer.write(answer)
            writer.close()

    server = await start(accept)
    try:
        yield server
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
