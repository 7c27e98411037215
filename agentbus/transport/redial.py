"""Makes a new connection for a link whose connection broke, and goes on where that one ended."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Protocol, cast

from ..config import Limits
from ..errors import AgentbusError
from ..wire import Backoff, Buffer, Resumption

if TYPE_CHECKING:
    from .lasting import LastingLink

__all__ = ["Dialer", "Down", "restore"]

_TRY = 2.0
"""Seconds for one try, from the connection to where the link goes on."""


class Dialer(Protocol):
    """Makes connections to where a link's first one led."""

    async def connect(self, protocol: asyncio.Protocol) -> None:
        """Connect `protocol`.

        Raises:
            OSError: that cannot be done now.
        """
        ...

    def admits(self, transport: asyncio.BaseTransport) -> bool:
        """Say whether what is at the other end may hear from this process."""
        ...


class Down(asyncio.Transport):
    """What a link has while it has no connection: drops what is written, since that is kept."""

    def __init__(self, link: LastingLink) -> None:
        super().__init__()
        self._link = link
        self._closing = False

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return self._link.bytes_kept

    def write(self, data: Buffer | bytearray) -> None:
        """Drop it."""

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._link.connection_lost, None)


async def restore(link: LastingLink, dialer: Dialer, limits: Limits) -> None:
    """Try, each time after a longer while, until the link goes on or is over."""
    backoff = Backoff()
    while link.broken:
        await asyncio.sleep(backoff.delay(random.random()))
        if not link.broken:
            return
        attempt = _Attempt(link, dialer, limits)
        try:
            async with asyncio.timeout(_TRY):
                await dialer.connect(attempt)
                await attempt.outcome
        except (OSError, TimeoutError):
            continue
        except AgentbusError:
            # It does not know the link, or is another process: this one cannot go on.
            link.give_up()
        finally:
            attempt.abort()


class _Attempt(asyncio.Protocol):
    """One new connection, until the link has it."""

    def __init__(self, link: LastingLink, dialer: Dialer, limits: Limits) -> None:
        self._link = link
        self._dialer = dialer
        self._handshake = Resumption(link.peer, lambda: link.bytes_received, limits)
        self._transport: asyncio.WriteTransport | None = None
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        if self.outcome.cancelled() or not self._dialer.admits(transport):
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        transport, handshake = self._transport, self._handshake
        if transport is None or self.outcome.done():
            return
        try:
            to_send = handshake.receive(data)
            if to_send:
                transport.write(to_send)
            if handshake.answer is None:
                return
            if not self._link.can_resume(handshake.answer.received):
                raise ConnectionError("the link goes on elsewhere or not at all")
        except (AgentbusError, ConnectionError) as error:
            self.outcome.set_exception(error)
            return
        self._transport = None
        self.outcome.set_result(None)
        self._link.adopt(transport, handshake.answer.received)
        rest = handshake.rest()
        if rest:
            self._link.data_received(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(ConnectionError("the connection broke again"))

    def abort(self) -> None:
        """Drop the connection, unless the link has it; harmless if there is none."""
        if not self.outcome.done():
            self.outcome.cancel()
        elif not self.outcome.cancelled():
            self.outcome.exception()
        if self._transport is not None:
            self._transport.abort()
