"""What every ZeroMQ socket here needs: an event loop that sees when it can be read, and an address.

A ZeroMQ socket's descriptor tells of changes, not of states, and reading the socket's events or
sending on it may swallow a change. Whoever sends must therefore `recheck`. The descriptor is never
watched for writing: it can be written at all times, whether or not the socket can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

from ..config import Keys
from ..errors import ConfigError
from .base import TCP_SCHEME

__all__ = [
    "BATCH",
    "CHUNK",
    "LINGER",
    "Data",
    "PeerGone",
    "Readiness",
    "new_socket",
    "require_curve",
    "send",
    "send_to",
    "tcp_address",
]

Data = bytes | bytearray | memoryview

BATCH = 64
"""Messages read from one socket before others have their turn."""
LINGER = 1000
"""Milliseconds in which a socket that was closed in order may still send what it holds."""
CHUNK = 128 * 1024
"""Longest message: longer writes are cut, so that none delays the others for long."""
_SLACK = 1024
"""Room in a message for the framing of ZMTP and CURVE."""
_QUEUE = 16
"""Messages that ZeroMQ holds for one peer and direction, 2 MiB at most. More wait in the link's own
buffer, where they are counted: a PING waits behind them all."""
_UNCOPIED = 64 * 1024
"""Messages from this size are handed over without a copy."""
_MAX_PORT = 65535
_KEEPALIVE = {
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 5,
    zmq.TCP_KEEPALIVE_INTVL: 5,
    zmq.TCP_KEEPALIVE_CNT: 2,
    zmq.TCP_MAXRT: 15_000,
}
"""Seconds, seconds, a count, and milliseconds: after 15 s the kernel ends a connection to a host that
is gone. ZeroMQ's own heartbeats would, too, but their timer aborts this process where a connection
broke while so much had come that nothing more was read (libzmq 4.3.5, `!_io_error`)."""


class PeerGone(Exception):
    """No connection leads to the peer any more."""


class Readiness:
    """Calls `drain` from the loop whenever a socket may have something to read.

    `drain` reads `BATCH` messages at most, without blocking. It may close the socket, after `stop`.
    """

    def __init__(self, socket: zmq.Socket[bytes], drain: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = socket
        self._drain = drain
        self._scheduled = False
        self._stopped = False
        self._descriptor = int(socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._descriptor, self._wake)
        self.recheck()

    def recheck(self) -> None:
        """Look again, since something was sent or not all was read."""
        if self._scheduled or self._stopped:
            return
        if int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._scheduled = True
            self._loop.call_soon(self._wake)

    def stop(self) -> None:
        """Let go of the socket; `drain` is not called again."""
        if not self._stopped:
            self._stopped = True
            self._loop.remove_reader(self._descriptor)

    def _wake(self) -> None:
        self._scheduled = False
        if not self._stopped:
            self._drain()
            self.recheck()


def require_curve() -> str:
    """Return libzmq's version.

    Raises:
        ConfigError: it cannot encrypt.
    """
    if not zmq.has("curve"):
        problem = "this libzmq has no CURVE; install a pyzmq that was built with libsodium"
        raise ConfigError("zmq", problem)
    return zmq.zmq_version()


def tcp_address(url: str) -> str:
    """Return what ZeroMQ calls `ab://host:port`.

    The host is a name or an IPv4 address, or an IPv6 address in brackets.

    Raises:
        ConfigError: the url is not of that form.
    """
    host, _, port = url.removeprefix(TCP_SCHEME).rpartition(":")
    is_port = port.isascii() and port.isdigit() and int(port) <= _MAX_PORT
    if not (url.startswith(TCP_SCHEME) and host and is_port):
        raise ConfigError("url", f"{url!r} is not of the form ab://host:port")
    return f"tcp://{host}:{port}"


def new_socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, keys: Keys) -> zmq.Socket[bytes]:
    """Make a socket that encrypts all, bounds what a peer may send, and notices dead peers."""
    socket = context.socket(kind)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public.encode())
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
    socket.setsockopt(zmq.MAXMSGSIZE, CHUNK + _SLACK)
    socket.setsockopt(zmq.SNDHWM, _QUEUE)
    socket.setsockopt(zmq.RCVHWM, _QUEUE)
    for option, value in _KEEPALIVE.items():
        socket.setsockopt(option, value)
    socket.setsockopt(zmq.LINGER, 0)
    return socket


def send(socket: zmq.Socket[bytes], data: Data) -> bool:
    """Send one message and say whether there was room for it; `recheck` the socket after it."""
    try:
        socket.send(data, zmq.NOBLOCK, copy=len(data) < _UNCOPIED)
    except zmq.Again:
        return False
    return True


def send_to(socket: zmq.Socket[bytes], identity: bytes, data: Data) -> bool:
    """Send one message to one peer of a ROUTER and say whether there was room for it.

    Raises:
        PeerGone: no connection has that identity.
    """
    try:
        socket.send(identity, zmq.NOBLOCK | zmq.SNDMORE)
        socket.send(data, zmq.NOBLOCK, copy=len(data) < _UNCOPIED)
    except zmq.Again:
        return False
    except zmq.ZMQError as error:
        if error.errno == zmq.EHOSTUNREACH:
            raise PeerGone from error
        raise
    return True
