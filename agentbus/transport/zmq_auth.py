"""Decides whose CURVE key may connect: the authentication protocol of ZeroMQ (ZAP, RFC 27).

ZeroMQ asks for each connection, within its context, before the connection carries anything. What
is no request of that form, or not of CURVE, is refused. Keys are not logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import zmq
from zmq.utils import z85

from .zmq_io import BATCH, Readiness

__all__ = ["DOMAIN", "KEY_PROPERTY", "USER_PROPERTY", "Allowed", "ZapHandler"]

logger = logging.getLogger("agentbus")

DOMAIN = b"agentbus"
KEY_PROPERTY = "X-Key"
"""The property of every message that holds its sender's public key, in Z85."""
USER_PROPERTY = "User-Id"
"""ZeroMQ's own, of every message: the name of its sender's key."""
_ENDPOINT = "inproc://zeromq.zap.01"
_VERSION = b"1.0"
_KEY_BYTES = 32

Allowed = Callable[[bytes], str | None]
"""Given a public key in Z85, returns its user's name, or None for a key that may not connect."""


class ZapHandler:
    """Answers ZeroMQ's questions in one context; make it before the sockets that listen."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], allowed: Allowed) -> None:
        self._allowed = allowed
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(_ENDPOINT)
        self._readiness = Readiness(self._socket, self._drain)
        self.refused = 0
        """Connections that were not let in."""

    def refuse_all(self) -> None:
        """Let nobody in from now on."""
        self._allowed = lambda _: None

    def close(self) -> None:
        """Answer no more."""
        self._readiness.stop()
        self._socket.close()

    def _drain(self) -> None:
        for _ in range(BATCH):
            try:
                request = self._socket.recv_multipart(zmq.NOBLOCK)
                self._socket.send_multipart(self._answer(request), zmq.NOBLOCK)
            except zmq.Again:
                return

    def _answer(self, request: list[bytes]) -> list[bytes]:
        """Return version, request id, status, its text, user and properties."""
        number = request[1] if len(request) > 1 else b""
        match request:
            case [version, _, domain, _, _, b"CURVE", key] if (
                version == _VERSION and domain == DOMAIN and len(key) == _KEY_BYTES
            ):
                text = z85.encode(key)
                user = self._allowed(text)
            case _:
                text, user = b"", None
        if user is None:
            self.refused += 1
            logger.warning("a connection was refused: its key is not authorised, or has expired")
            return [_VERSION, number, b"400", b"not authorised", b"", b""]
        logger.debug("a connection of %s was let in", user)
        return [_VERSION, number, b"200", b"OK", user.encode(), _property(KEY_PROPERTY, text)]


def _property(name: str, value: bytes) -> bytes:
    return len(name).to_bytes(1, "big") + name.encode() + len(value).to_bytes(4, "big") + value
