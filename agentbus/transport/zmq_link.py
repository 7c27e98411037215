"""A link over tcp: it asks a silent peer for a sign of life, since nothing else may tell."""

from __future__ import annotations

import asyncio

from ..config import Limits
from ..wire import Hello, Liveness, Verdict
from .base import LinkOwner
from .link import Settled, StreamLink

__all__ = ["HEARTBEAT", "MISSES", "TcpLink"]

HEARTBEAT = 5.0
"""Seconds of silence after which a peer is asked whether it is there, and asked again."""
MISSES = 3
"""How often it is asked in vain before it is lost: after 20 s, where no connection breaks."""


class TcpLink(StreamLink):
    """A `StreamLink` whose transport need not notice that the peer is gone."""

    via = "tcp"

    def __init__(self, owner: LinkOwner, hello: Hello, limits: Limits, settled: Settled) -> None:
        super().__init__(owner, hello, limits, settled)
        self._liveness = Liveness(self._loop.time(), HEARTBEAT, MISSES)
        self._beat: asyncio.TimerHandle | None = None
        self._waiting = 0
        """Bytes that had no room in the transport's queue at the last check."""
        self._passed_on = 0
        """Bytes that had passed the transport's buffer by then."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._liveness.heard(self._loop.time())
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._beat is not None:
            self._beat.cancel()
        super().connection_lost(exc)

    def _ping(self) -> None:
        """Ask for a sign of life, unless HELLO or GOODBYE is waited for, under other timeouts."""
        if self._peer is not None and not self.closing and not self.paused:
            ping = self._session.ping()
            self._enqueue([ping], len(ping))

    def _note_progress(self, waiting: int) -> None:
        """Take a peer that reads what waits for it as alive: on a slow line PINGs wait, too."""
        passed_on = self._bytes_sent - self._queued - waiting
        if self._waiting and passed_on > self._passed_on:
            self._liveness.heard(self._loop.time())
        self._waiting, self._passed_on = waiting, passed_on

    def _watch(self) -> None:
        self._beat = self._loop.call_at(self._liveness.next_at, self._check)

    def _check(self) -> None:
        transport = self._transport
        if transport is None:
            return
        self._note_progress(transport.get_write_buffer_size())
        verdict = self._liveness.check(self._loop.time())
        if verdict is Verdict.LOST:
            transport.abort()
            return
        if verdict is Verdict.ASK:
            self._ping()
        self._watch()
