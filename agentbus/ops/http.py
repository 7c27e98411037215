"""A few pages over HTTP for programs that watch this process: GET alone, every read bounded."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from ..errors import ConfigError

__all__ = ["Page", "parse_address", "serve_http"]

MAX_HEAD = 8 * 1024
"""Bytes of a request line and its headers."""
MAX_CLIENTS = 16
"""Connections at a time; more are closed at once."""
TIMEOUT = 5.0
"""Seconds for a client to send its request and to read the answer."""
_PORTS = range(65536)


@dataclass(frozen=True, slots=True)
class Page:
    """What a path answers with."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK


Pages = Mapping[str, Callable[[], Page]]
"""What makes the page of each path, for each request anew."""


def parse_address(text: str) -> tuple[str, int]:
    """Read `HOST:PORT`, `[::1]:PORT` for IPv6; port 0 takes a free one.

    Raises:
        ConfigError: it is not one.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and port.isascii() and port.isdigit() and int(port) in _PORTS):
        raise ConfigError("metrics", f"{text!r} is not HOST:PORT, for example 127.0.0.1:9464")
    return host, int(port)


@asynccontextmanager
async def serve_http(address: str, pages: Pages) -> AsyncGenerator[str]:
    """Serve pages at `HOST:PORT` until the block ends; yields the url.

    Raises:
        ConfigError: the address is not one, or cannot be listened at.
    """
    host, port = parse_address(address)
    try:
        listeners = await anyio.create_tcp_listener(local_host=host, local_port=port)
    except OSError as error:
        raise ConfigError("metrics", f"cannot listen at {address}: {error.strerror}") from error
    clients = anyio.CapacityLimiter(MAX_CLIENTS)

    async def serve(stream: SocketStream) -> None:
        async with stream:
            try:
                clients.acquire_on_behalf_of_nowait(stream)
            except anyio.WouldBlock:
                return
            try:
                await _answer(stream, pages)
            finally:
                clients.release_on_behalf_of(stream)

    async with listeners, anyio.create_task_group() as group:
        group.start_soon(listeners.serve, serve)
        bound = listeners.extra(SocketAttribute.local_port)
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound}"
        group.cancel_scope.cancel()


async def _answer(stream: SocketStream, pages: Pages) -> None:
    """Answer one request. A client that is too slow, or goes away, gets nothing."""
    with anyio.move_on_after(TIMEOUT):
        try:
            page = _page(await _head(stream), pages)
            await stream.send(_response(page))
        except (anyio.BrokenResourceError, anyio.IncompleteRead):
            return


async def _head(stream: SocketStream) -> bytes | None:
    """Return the request line and the headers; None if they are over the limit."""
    try:
        return await BufferedByteReceiveStream(stream).receive_until(b"\r\n\r\n", MAX_HEAD)
    except anyio.DelimiterNotFound:
        return None


def _page(head: bytes | None, pages: Pages) -> Page:
    if head is None:
        return _refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    words = head.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return _refusal(HTTPStatus.BAD_REQUEST)
    if words[0] != b"GET":
        return _refusal(HTTPStatus.METHOD_NOT_ALLOWED)
    make = pages.get(words[1].partition(b"?")[0].decode("ascii", "replace"))
    return _refusal(HTTPStatus.NOT_FOUND) if make is None else make()


def _refusal(status: HTTPStatus) -> Page:
    return Page(f"{status.phrase}\n".encode(), status=status)


def _response(page: Page) -> bytes:
    lines = [
        f"HTTP/1.1 {page.status.value} {page.status.phrase}",
        f"Content-Type: {page.content_type}",
        f"Content-Length: {len(page.body)}",
        "Connection: close",
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + page.body
