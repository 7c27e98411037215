"""The connecting side of tcp: one encrypted ZeroMQ socket, in a context of its own, for one link.

The socket never connects again by itself: a link that is broken gets another, as over every
transport.
"""

from __future__ import annotations

import asyncio
import secrets

import zmq

from ..config import Keys, Limits
from ..errors import AgentbusError, Closed, ConfigError, NotAuthorised, PeerLost
from ..wire import Hello
from .base import Link, LinkOwner
from .link import Settled
from .zmq_io import BATCH, LINGER, Data, Readiness, new_socket, require_curve, send, tcp_address
from .zmq_link import TcpLink
from .zmq_monitor import Monitor
from .zmq_stream import END, OPEN, MessageStream

__all__ = ["connect_tcp"]

_LAST_WORDS = 0.02
"""Seconds that messages may be behind the event that their connection ended."""
_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


async def connect_tcp(
    url: str, owner: LinkOwner, hello: Hello, limits: Limits, *, keys: Keys, timeout: float
) -> Link:
    """Connect to the process that listens at `url` and return the link once it is open.

    Args:
        url: `ab://host:port`.
        owner: is told of the link, `link_opened` first, before this returns.
        hello: what this process says about itself.
        limits: bounds on both directions.
        keys: this process's own, and the server's public key.
        timeout: seconds until both sides said HELLO.

    Raises:
        ConfigError: nothing listens there, its host is not reached, or the url or keys cannot be
            used.
        NotAuthorised: what listens there ended the handshake.
        PeerLost: what listens there went away or did not answer in time.
        ProtocolError: what listens there does not speak this protocol, or another version.
    """
    require_curve()
    if not keys.server:
        problem = f"to connect to {url} its public key is needed (--server-key, or server=)"
        raise ConfigError("keys", problem)
    outcome: asyncio.Future[AgentbusError | None] = asyncio.get_running_loop().create_future()

    def settled(error: AgentbusError | None) -> None:
        if not outcome.done():
            outcome.set_result(error)

    dialer = _TcpDialer(url, keys)
    link = _DealerLink(owner, hello, limits, settled, dialer, keys.server)
    try:
        async with asyncio.timeout(timeout):
            await dialer.connect(link)
            error = await outcome
    except TimeoutError as late:
        link.abort()
        raise dialer.unanswered(timeout) from late
    except BaseException:
        link.abort()
        raise
    if isinstance(error, PeerLost | Closed):
        raise (dialer.failure or PeerLost(url)) from error
    if error is not None:
        raise error
    return link


class _TcpDialer:
    """Connects to one url. Implements `Dialer`."""

    def __init__(self, url: str, keys: Keys) -> None:
        self._url = url
        self._keys = keys
        self._dealers: list[_Dealer] = []

    async def connect(self, protocol: asyncio.Protocol) -> None:
        self._dealers = [dealer for dealer in self._dealers if not dealer.closed]
        dealer = _Dealer(self._url, self._keys)
        self._dealers.append(dealer)
        dealer.start(protocol)

    def admits(self, transport: asyncio.BaseTransport) -> bool:
        return True  # the socket talks to none but who has the key

    def unanswered(self, seconds: float) -> AgentbusError:
        """Return what it means that no link was open in so many seconds."""
        if self._dealers and self._dealers[-1].connected:
            return PeerLost(self._url)
        problem = f"{self._url} was not reached in {seconds:g} s; is that its host, and is it up?"
        return ConfigError("url", problem)

    @property
    def failure(self) -> AgentbusError | None:
        """Why the latest connection ended, as far as its socket knows."""
        return self._dealers[-1].failure if self._dealers else None

    async def wait_closed(self) -> None:
        """Wait until nothing is left of the sockets."""
        for dealer in self._dealers:
            await dealer.wait_closed()


class _Dealer:
    """The socket of one connection. Implements `Carrier`."""

    def __init__(self, url: str, keys: Keys) -> None:
        self._url = url
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        # Chosen anew for each link: whoever does not know it cannot pretend to be its other end.
        # ZeroMQ keeps those for itself that begin with a zero.
        self._identity = b"c" + secrets.token_bytes(15)
        self._socket = new_socket(self._context, zmq.DEALER, keys)
        try:
            self._open(keys)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self.connected = False
        """Whether it ever reached what listens there."""
        self._encrypted = False
        self.failure: AgentbusError | None = None
        """Why the link never opened, as far as the socket knows."""
        self._closing: asyncio.Future[None] | None = None

    def _open(self, keys: Keys) -> None:
        self._socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server.encode())
        self._socket.setsockopt(zmq.ROUTING_ID, self._identity)
        self._socket.setsockopt(zmq.RECONNECT_IVL, -1)
        address = tcp_address(self._url)
        self._socket.setsockopt(zmq.IPV6, "[" in address)
        self._monitor = Monitor(self._socket, _EVENTS, self._hear)
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self._monitor.close()
            raise ConfigError("url", f"cannot connect to {self._url}: {error.strerror}") from error

    def start(self, link: asyncio.Protocol) -> None:
        """Carry the bytes of a link, or of what is to become its connection."""
        self._stream = MessageStream(link, self)
        self._readiness = Readiness(self._socket, self._drain)
        self.send(OPEN)
        link.connection_made(self._stream)

    def send(self, data: Data) -> bool:
        sent = send(self._socket, data)
        self._readiness.recheck()
        return sent

    def release(self, *, flushed: bool) -> None:
        if flushed:
            send(self._socket, END)
        self._monitor.close()
        self._readiness.stop()
        self._socket.close(LINGER if flushed else 0)
        # It blocks until what lingers was sent.
        self._closing = self._loop.run_in_executor(None, self._context.term)

    @property
    def closed(self) -> bool:
        """Whether nothing is left of the socket."""
        return self._closing is not None and self._closing.done()

    async def wait_closed(self) -> None:
        """Wait until nothing is left of the socket that was let go."""
        if self._closing is not None:
            await asyncio.wait([self._closing])

    def _drain(self) -> None:
        for _ in range(BATCH):
            if self._closing is not None:
                return
            try:
                data = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            if data != self._identity:  # that was a look whether this side is there
                self._stream.feed(data)
        if self._closing is None:
            self._stream.flush()

    def _hear(self, event: int, value: int) -> None:
        if event == zmq.EVENT_CONNECTED:
            self.connected = True
        elif event == zmq.EVENT_CLOSED and not self.connected:
            problem = f"nothing listens at {self._url}; is the bus started?"
            self._fail(ConfigError("url", problem))
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._fail(NotAuthorised(self._url, "it does not know this process's public key"))
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._encrypted = True
        elif event == zmq.EVENT_DISCONNECTED and not self._encrypted:
            problem = "it ended the handshake; is that its public key, and is it agentbus?"
            self._fail(NotAuthorised(self._url, problem))
        elif event == zmq.EVENT_DISCONNECTED:
            self._loop.call_later(_LAST_WORDS, self._stream.abort)

    def _fail(self, error: AgentbusError) -> None:
        self.failure = self.failure or error
        self._stream.abort()


class _DealerLink(TcpLink):
    """A link that is closed once its socket is."""

    __slots__ = ("_sockets",)

    def __init__(
        self,
        owner: LinkOwner,
        hello: Hello,
        limits: Limits,
        settled: Settled,
        dialer: _TcpDialer,
        key: str,
    ) -> None:
        super().__init__(owner, hello, limits, settled, dialer=dialer)
        self.key = key
        self._sockets = dialer

    async def aclose(self) -> None:
        await super().aclose()
        await self._sockets.wait_closed()
