"""The listening side of tcp: one encrypted ZeroMQ socket that many links share.

A peer is who holds the identity that it chose and the CURVE key with which it first used it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Self

import zmq

from ..config import Keys, Limits
from ..errors import AgentbusError, ConfigError
from ..wire import Hello
from .base import TCP_SCHEME, LinkOwner, Listener
from .lasting import Tickets
from .link import Settled
from .zmq_auth import DOMAIN, KEY_PROPERTY, USER_PROPERTY, ZapHandler
from .zmq_io import (
    BATCH,
    LINGER,
    Data,
    PeerGone,
    Readiness,
    new_socket,
    require_curve,
    send_to,
    tcp_address,
)
from .zmq_link import TcpLink
from .zmq_monitor import Monitor
from .zmq_stream import END, OPEN, MessageStream

__all__ = ["HELLO_TIMEOUT", "listen_tcp"]

logger = logging.getLogger("agentbus")

HELLO_TIMEOUT = 5.0
"""Seconds in which whoever connects must have shown its key, and as many to say HELLO."""
_BACKLOG = 128
_LOOKS = (0.02, 0.2)
"""Seconds after the event that a connection ended until ZeroMQ refuses to send on it, mostly."""
_EVENTS = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


async def listen_tcp(
    url: str, owner: LinkOwner, hello: Hello, limits: Limits, *, keys: Keys
) -> Listener:
    """Accept links at `url`, from the processes whose keys are authorized.

    Args:
        url: `ab://host:port`; host `*` for all interfaces, port 0 for one that is free.
        owner: owns every accepted link.
        hello: what this process says about itself.
        limits: bounds on both directions.
        keys: this process's own, and those that may connect.

    Raises:
        ConfigError: the url cannot be used, or another process listens there.
    """
    require_curve()
    return _TcpListener(url, owner, hello, limits, keys)


class _TcpListener:
    """See `base.Listener`. Its port is free again when the last of its links is over, and lets
    nobody in meanwhile."""

    def __init__(
        self, url: str, owner: LinkOwner, hello: Hello, limits: Limits, keys: Keys
    ) -> None:
        self._owner = owner
        self._hello = hello
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._routes: dict[bytes, _Route] = {}
        self._tickets: Tickets = {}
        self._refused = 0
        self._closed = False
        self._ending: asyncio.Future[None] | None = None
        address = tcp_address(url)
        self._users = {key.encode(): name for name, key in keys.authorized.items()}
        self._expires = keys.expires
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._zap = ZapHandler(self._context, self._allowed)
        self._socket = new_socket(self._context, zmq.ROUTER, keys)
        self._monitor = Monitor(self._socket, _EVENTS, self._hear)
        self._readiness = Readiness(self._socket, self._drain)
        try:
            self._bind(address)
        except zmq.ZMQError as error:
            self._end()
            raise ConfigError("url", f"cannot listen at {url}: {error.strerror}") from error
        except BaseException:
            self._end()
            raise

    def _bind(self, address: str) -> None:
        socket = self._socket
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.IPV6, "[" in address)
        socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
        # Without it a handshake that nobody judges would be let in.
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.HANDSHAKE_IVL, int(HELLO_TIMEOUT * 1000))
        socket.setsockopt(zmq.BACKLOG, _BACKLOG)
        socket.bind(address)
        self._endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)

    @property
    def path(self) -> str:
        return TCP_SCHEME + self._endpoint.removeprefix("tcp://")

    @property
    def refused(self) -> int:
        return self._refused + self._zap.refused

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            # To unbind would end the links that were accepted there.
            self._zap.refuse_all()
            for route in tuple(self._routes.values()):
                route.abort_unopened()
            self._end_if_unused()
        if not self._routes:
            await self.wait_ended()

    def _allowed(self, key: bytes) -> str | None:
        """Return the user of a key that may connect now."""
        user = self._users.get(key)
        return None if user is None or self.seconds_left(user) <= 0 else user

    def seconds_left(self, user: str) -> float:
        """Return how long a user's key may be used yet."""
        # The one place for a clock on the wall: a key outlives the process that made it.
        return self._expires.get(user, math.inf) - time.time()

    # --- the socket

    def send(self, identity: bytes, data: Data) -> bool:
        """Send one message to one peer; see `Carrier.send`."""
        sent = send_to(self._socket, identity, data)
        self._readiness.recheck()
        return sent

    def forget(self, identity: bytes) -> None:
        """The route is over."""
        del self._routes[identity]
        self._end_if_unused()

    def new_link(self, settled: Settled) -> TcpLink:
        """Make the link of one peer."""
        return _RouterLink(
            self._owner, self._hello, self._limits, settled, self._tickets, self.wait_ended
        )

    def count_refused(self) -> None:
        """Count a connection that ended before it was a link."""
        self._refused += 1

    async def wait_ended(self) -> None:
        """Wait until nothing is left of the socket, if it is ending."""
        if self._ending is not None:
            await asyncio.wait([self._ending])

    def _end_if_unused(self) -> None:
        if self._closed and not self._routes and self._ending is None:
            self._end()

    def _end(self) -> None:
        self._monitor.close()
        self._readiness.stop()
        self._zap.close()
        self._socket.close(LINGER)
        # It blocks until what lingers was sent.
        self._ending = self._loop.run_in_executor(None, self._context.term)

    def _drain(self) -> None:
        for _ in range(BATCH):
            if self._ending is not None:
                return
            try:
                sender = self._socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            data = self._socket.recv(copy=False)
            whole = not data.more
            while data.more:
                data = self._socket.recv(copy=False)
            if whole:
                self._take(sender, data.bytes)
        for route in self._waiting():
            route.stream.flush()

    def _waiting(self) -> Iterator[_Route]:
        """Yield the routes on which something waits; they may end meanwhile."""
        routes = tuple(self._routes.values())
        return (route for route in routes if route.stream.get_write_buffer_size())

    def _take(self, sender: zmq.Frame, data: bytes) -> None:
        identity = sender.bytes
        route = self._routes.get(identity)
        if route is None:
            if data == OPEN and not self._closed:
                self._routes[identity] = _Route(self, identity, sender)
            elif data != END:
                # Something of a link that is over for this side.
                self._tell_end(identity)
        elif route.key == sender.get(KEY_PROPERTY):
            route.stream.feed(data)
        else:
            self.count_refused()
            logger.warning("a message was dropped: its sender's identity is another user's")

    def _tell_end(self, identity: bytes) -> None:
        with contextlib.suppress(PeerGone):
            self.send(identity, END)

    def _hear(self, event: int, value: int) -> None:
        if event == zmq.EVENT_DISCONNECTED:
            for delay in _LOOKS:
                self._loop.call_later(delay, self._look, value)
        else:
            self.count_refused()
            logger.warning("a connection was refused: it does not speak CURVE, or not to this key")

    def _look(self, descriptor: int) -> None:
        """Find out which of the links over a connection are over: sending on them fails."""
        for route in tuple(self._routes.values()):
            if route.descriptor == descriptor:
                route.look()


class _Route:
    """One peer's stream through the shared socket. Implements `Carrier`."""

    def __init__(self, listener: _TcpListener, identity: bytes, first: zmq.Frame) -> None:
        self._listener = listener
        self._identity = identity
        self.key = first.get(KEY_PROPERTY)
        self.descriptor = first.get(zmq.SRCFD)
        """The connection's, as the monitor names it; such numbers are used again."""
        self.link = link = listener.new_link(self._settled)
        user = str(first.get(USER_PROPERTY))
        link.user, link.key = f"key:{user}", str(self.key)
        loop = asyncio.get_running_loop()
        left = listener.seconds_left(user)
        self._expiry = loop.call_later(left, self._expire) if left < math.inf else None
        self._opening: asyncio.TimerHandle | None = loop.call_later(HELLO_TIMEOUT, link.abort)
        self.stream = MessageStream(link, self)
        link.connection_made(self.stream)

    def send(self, data: Data) -> bool:
        return self._listener.send(self._identity, data)

    def _expire(self) -> None:
        logger.warning("a link is closed: the key of %s has expired", self.link.user)
        link = self.stream.get_protocol()  # not the one begun here, if another goes on
        if isinstance(link, TcpLink):
            link.abort()

    def release(self, *, flushed: bool) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        with contextlib.suppress(PeerGone):
            self.send(END)
        self._listener.forget(self._identity)

    def look(self) -> None:
        """End the stream if the peer is gone: its own identity means nothing to it."""
        try:
            self.send(self._identity)
        except PeerGone:
            self.stream.abort()

    def abort_unopened(self) -> None:
        """Drop the connection if it is no link yet."""
        if self._opening is not None:
            self.link.abort()

    def _settled(self, error: AgentbusError | None) -> None:
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        if error is not None:
            self._listener.count_refused()


class _RouterLink(TcpLink):
    """A link that is closed once the socket is, where it was the last on it."""

    __slots__ = ("_wait_ended",)

    def __init__(
        self,
        owner: LinkOwner,
        hello: Hello,
        limits: Limits,
        settled: Settled,
        tickets: Tickets,
        wait_ended: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(owner, hello, limits, settled, tickets=tickets)
        self._wait_ended = wait_ended

    async def aclose(self) -> None:
        await super().aclose()
        await self._wait_ended()
