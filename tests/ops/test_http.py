"""The pages of a process: what clients ask rightly, wrongly, too slowly and too much."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketStream

from agentbus.errors import ConfigError
from agentbus.ops import Page, http, parse_address, serve_http

pytestmark = pytest.mark.anyio

GET = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"


@asynccontextmanager
async def server() -> AsyncGenerator[int]:
    with anyio.fail_after(20):
        async with serve_http("127.0.0.1:0", {"/metrics": lambda: Page(b"up 1\n")}) as url:
            yield int(url.rpartition(":")[2])


async def read_all(stream: SocketStream) -> bytes:
    received = b""
    try:
        async for part in stream:
            received += part
    except anyio.BrokenResourceError:  # closed with bytes of ours unread
        pass
    return received


async def ask(port: int, request: bytes) -> bytes:
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(request)
        return await read_all(stream)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (GET, b"200 OK"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"GET /metrics/../secret HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
        (b"GET /metrics\r\n\r\n", b"400 Bad Request"),
        (b"\r\n\r\n", b"400 Bad Request"),
        (b"GET /metrics HTTP/1.1\r\nA: " + b"a" * http.MAX_HEAD, b"431 Request Header Fields"),
    ],
)
async def test_answers(request_: bytes, status: bytes) -> None:
    async with server() as port:
        answer = await ask(port, request_)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert f"Content-Length: {len(body)}".encode() in head
    assert (body == b"up 1\n") == status.startswith(b"200")


async def test_a_slow_client_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TIMEOUT", 0.05)
    async with server() as port:
        assert await ask(port, GET[:-1]) == b""


async def test_a_client_that_goes_away_harms_nobody() -> None:
    async with server() as port:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(GET[:-1])
        assert b"200 OK" in await ask(port, GET)


async def test_too_many_clients_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_CLIENTS", 1)
    async with server() as port:
        async with await anyio.connect_tcp("127.0.0.1", port) as first:
            await first.send(GET[:-1])
            assert await ask(port, GET) == b""
            await first.send(GET[-1:])
            assert b"200 OK" in await read_all(first)
        assert b"200 OK" in await ask(port, GET)


async def test_an_address_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1:{port}: "):
            async with serve_http(f"127.0.0.1:{port}", {}):
                pass


def test_addresses() -> None:
    assert parse_address("127.0.0.1:0") == ("127.0.0.1", 0)
    assert parse_address("[::1]:9464") == ("::1", 9464)
    for text in ("", "9464", ":1", "host:", "host:x", "host:65536", "host:-1", "host:²"):
        with pytest.raises(ConfigError, match="HOST:PORT"):
            parse_address(text)
