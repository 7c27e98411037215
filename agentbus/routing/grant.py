"""Grants: what the broker gives a process that may ask an agent of another one, to show it there.

A grant is sealed with a key that only the broker and the receiving process have. It names who may
use it and on which link, what for and until when, by the broker's clock, which the receiver is told
when it joins; it is shown once. Pure: `now` is given.
"""

from __future__ import annotations

import hmac
from collections.abc import Hashable
from dataclasses import astuple, dataclass
from typing import Any

import msgpack
from blake3 import blake3

from ..errors import GrantRefused

__all__ = ["GRANT_SECONDS", "KEY_SIZE", "NONCE_SIZE", "Admissions", "Grant", "open_grant", "seal"]

GRANT_SECONDS = 60.0
"""How long a grant is good for."""
KEY_SIZE = 32
NONCE_SIZE = 16
_SEAL_SIZE = 32
_MAX_SIZE = 2048
"""Bytes of a sealed grant."""
_MAX_SHOWN = 65_536
"""Grants that a receiver remembers until they end; more are refused."""
_TYPES = (str, str, str, str, str, int, float, bytes, str)


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave for one process to ask one agent."""

    sender: str
    """The process that may ask."""
    holder: str
    """The public key that it must ask with over tcp; empty where the link is a Unix socket."""
    source: str
    """The agent on whose behalf; empty for a program's own requests."""
    target: str
    operation: str
    epoch: int
    """Of the policy that it was made under."""
    until: float
    """By the broker's clock."""
    nonce: bytes
    principal: str
    """Who the asking process is, as the broker has found."""


def seal(grant: Grant, key: bytes) -> bytes:
    """Return the grant as it travels, for the process that has `key`."""
    body: bytes = msgpack.packb(astuple(grant))
    return _mac(body, key) + body


def open_grant(data: bytes, key: bytes) -> Grant:
    """Read a sealed grant.

    Raises:
        GrantRefused: it was not sealed with `key`.
    """
    mac, body = data[:_SEAL_SIZE], data[_SEAL_SIZE:]
    # Nothing of it is read before it is known to be the broker's.
    if len(data) > _MAX_SIZE or not hmac.compare_digest(mac, _mac(body, key)):
        raise GrantRefused("", "its grant is not the broker's, or for another process")
    fields: Any = msgpack.unpackb(body)
    if tuple(map(type, fields)) != _TYPES:
        raise GrantRefused("", "its grant is not of a form that this version knows")
    return Grant(*fields)


def _mac(body: bytes, key: bytes) -> bytes:
    return blake3(body, key=key).digest()


class Admissions:
    """What a receiver knows of grants: its key, the broker's clock, and what was shown already."""

    __slots__ = ("_ahead", "_epoch", "_key", "_shown")

    def __init__(self, key: bytes, epoch: int, clock: float, now: float) -> None:
        """Take what the broker says; its clock reads `clock` while the receiver's reads `now`."""
        self._key = key
        self._epoch = epoch
        self._ahead = clock - now
        self._shown: dict[Hashable, float] = {}

    def admit(self, data: bytes, sender: str, holder: str, now: float) -> tuple[Grant, float]:
        """Take a grant that a peer shows; returns it, and until when it is good by `now`'s clock.

        Args:
            data: what is shown.
            sender: the process at the other end of the link.
            holder: its public key; empty where the link is a Unix socket.
            now: the receiver's clock.

        Raises:
            GrantRefused: it is forged, another's, outdated or was shown before.
        """
        grant = open_grant(data, self._key)
        until = grant.until - self._ahead
        if grant.epoch != self._epoch:
            raise GrantRefused(grant.target, "its grant is of an earlier policy")
        if until <= now:
            raise GrantRefused(grant.target, "its grant has expired")
        if (grant.sender, grant.holder) != (sender, holder):
            raise GrantRefused(grant.target, "its grant is another process's")
        if grant.nonce in self._shown:
            raise GrantRefused(grant.target, "its grant was shown before")
        if len(self._shown) >= _MAX_SHOWN:
            self._shown = {nonce: end for nonce, end in self._shown.items() if end > now}
        if len(self._shown) >= _MAX_SHOWN:
            raise GrantRefused(grant.target, f"it remembers {_MAX_SHOWN} grants already")
        self._shown[grant.nonce] = until
        return grant, until
