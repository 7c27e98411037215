"""A link over tcp: it asks a silent peer for a sign of life, since nothing else may tell."""

from __future__ import annotations

import asyncio

from mypy_extensions import mypyc_attr

from ..config import Limits
from ..wire import Hello, Liveness, Verdict
from .base import LinkOwner
from .lasting import LastingLink, Tickets
from .link import Settled
from .redial import Dialer

__all__ = ["HEARTBEAT", "MISSES", "TcpLink"]

HEARTBEAT = 5.0
"""Seconds of silence after which a peer is asked whether it is there, and asked again."""
MISSES = 3
"""How often it is asked in vain before it is lost: after 20 s, where no connection breaks."""


@mypyc_attr(allow_interpreted_subclasses=True)
class TcpLink(LastingLink):
    """A `LastingLink` whose transport need not notice that the peer is gone."""

    __slots__ = ("_beat", "_liveness", "_passed_on", "_waiting")

    def __init__(
        self,
        owner: LinkOwner,
        hello: Hello,
        limits: Limits,
        settled: Settled,
        *,
        dialer: Dialer | None = None,
        tickets: Tickets | None = None,
    ) -> None:
        super().__init__(owner, hello, limits, settled, dialer=dialer, tickets=tickets)
        self.via = "tcp"
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

    def adopt(self, transport: asyncio.WriteTransport, received: int) -> None:
        self._liveness = Liveness(self._loop.time(), HEARTBEAT, MISSES)
        super().adopt(transport, received)
        self._watch()

    def _wait_for_another(self) -> None:
        self._stop_beat()
        super()._wait_for_another()

    def _over(self) -> None:
        self._stop_beat()
        super()._over()

    def _stop_beat(self) -> None:
        if self._beat is not None:
            self._beat.cancel()

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
        self._stop_beat()
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
