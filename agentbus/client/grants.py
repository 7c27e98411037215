"""Grants in a process that joined a bus with a policy: those shown to it, and those it shows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..errors import GrantRefused
from ..routing import BUS, Admissions, Joined
from .deadlines import DeadlineTimer
from .gate import MAX_DECISIONS
from .job import Job
from .peer import Peer
from .pool import WorkerPool

__all__ = ["GrantGate", "Grants"]

_RENEW_AFTER = 0.6
"""Of a grant's time, until another is asked for."""
_END_AFTER = 0.9
"""Of a grant's time, until it is not used any more; clocks and ways differ a little."""

Edge = tuple[Peer, str, str]
"""A link, the asking agent and the asked one."""
Renew = Callable[[], Awaitable[None]]


class GrantGate:
    """Lets in what the broker carries here, and what its grants name. Implements `Gate`."""

    def __init__(self, home: Peer, joined: Joined, timer: DeadlineTimer) -> None:
        self._home = home
        self._time = timer.time
        self._book = Admissions(joined.key, joined.epoch, joined.clock, timer.time())

    def check_request(self, peer: Peer, source: str, target: str) -> None:
        """See `Gate`. A request without a grant ends with `GrantRefused`."""
        until = peer.allowed.get(("", source, target))
        if until is not None and until > self._time():
            return
        if peer is self._home or target == BUS:
            return
        self._look(peer, source, target)

    def check_publish(self, peer: Peer, source: str, topic: str) -> None:
        """See `Gate`: what is published comes from the broker."""
        if peer is not self._home:
            raise GrantRefused(topic, "messages on topics come by way of the broker")

    def check_subscribe(self, peer: Peer, pattern: str) -> None:
        """See `Gate`: what is published goes to the broker."""
        raise GrantRefused(pattern, "subscribe at the broker")

    def show(self, peer: Peer, data: bytes) -> None:
        """Take a grant that a peer shows.

        Raises:
            GrantRefused: it is not good.
        """
        grant, until = self._book.admit(data, peer.name, peer.link.key, self._time())
        peer.principal = grant.principal
        if len(peer.allowed) >= MAX_DECISIONS:
            now = self._time()
            peer.allowed = {edge: end for edge, end in peer.allowed.items() if end > now}
        if len(peer.allowed) >= MAX_DECISIONS:
            raise GrantRefused(grant.target, f"it has {MAX_DECISIONS} grants of this process")
        peer.allowed["", grant.source, grant.target] = until

    def _look(self, peer: Peer, source: str, target: str) -> None:
        """Look an edge up by the agents' names, without the keys of instances."""
        edge = ("", source.partition("/")[0], target.partition("/")[0])
        until = peer.allowed.get(edge)
        if until is None or until <= self._time():
            raise GrantRefused(target, "the broker has granted no such request, or no longer")
        if len(peer.allowed) < MAX_DECISIONS:
            peer.allowed["", source, target] = until


class Grants:
    """The grants that this process has shown, renewed while it uses them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: WorkerPool) -> None:
        self._loop = loop
        self._pool = pool
        self._shown: dict[Edge, asyncio.TimerHandle] = {}

    def covers(self, peer: Peer, source: str, target: str) -> bool:
        """Tell whether an edge may be used; addresses of instances are as their agents'."""
        granted = peer.granted
        if granted is None or (source, target) in granted:
            return True
        if (source.partition("/")[0], target.partition("/")[0]) not in granted:
            return False
        if len(granted) < MAX_DECISIONS:
            granted[source, target] = None
        return True

    def shown(self, edge: Edge, seconds: float, renew: Renew) -> None:
        """Note that a grant was shown; `renew` gets another in time, if the link is used."""
        peer, source, target = edge
        if peer.granted is None:
            peer.granted = {}
        peer.granted[source, target] = None
        used = peer.last_id

        def due() -> None:
            left = (_END_AFTER - _RENEW_AFTER) * seconds
            self._set(edge, left, lambda: self._forget(edge))
            if peer.last_id != used:
                self._pool.run(Job("a grant was not renewed", renew))

        self._set(edge, _RENEW_AFTER * seconds, due)

    def forget_peer(self, peer: Peer) -> None:
        """A link is gone."""
        for edge in [edge for edge in self._shown if edge[0] is peer]:
            self._forget(edge)

    def forget_all(self) -> None:
        """Another policy holds, or none, or the bus is closed."""
        for timer in self._shown.values():
            timer.cancel()
        for peer in {edge[0] for edge in self._shown}:
            peer.granted = None
        self._shown.clear()

    def _set(self, edge: Edge, seconds: float, action: Callable[[], None]) -> None:
        former = self._shown.get(edge)
        if former is not None:
            former.cancel()
        self._shown[edge] = self._loop.call_later(seconds, action)

    def _forget(self, edge: Edge) -> None:
        self._shown.pop(edge).cancel()
        peer = edge[0]
        peer.granted = {(source, target): None for p, source, target in self._shown if p is peer}
