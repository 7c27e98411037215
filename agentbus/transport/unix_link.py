"""A link over a Unix stream socket, between processes of one user."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from dataclasses import replace

from ..config import Limits
from ..messages import Envelope, Kind
from ..wire import Hello
from .base import LinkOwner
from .lasting import LastingLink, Tickets
from .link import Settled
from .peer_memory import Gate
from .process_exit import ProcessExit
from .redial import Dialer

__all__ = ["UnixDialer", "UnixLink"]

_UCRED = struct.Struct("3i")
_XUCRED = struct.Struct("IIh16I")
"""macOS: version, uid, number of groups, groups."""


class UnixDialer:
    """Connects to one path. Implements `Dialer`."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def connect(self, protocol: asyncio.Protocol) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: protocol, self._path)

    def admits(self, transport: asyncio.BaseTransport) -> bool:
        return _peer_credentials(transport)[1] == os.geteuid()


class UnixLink(LastingLink):
    """Goes no further than the connection if the other side is another user, and waits for no
    other connection once the peer's process has ended."""

    __slots__ = ("_exit", "_gate", "_pid")

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
        self._gate = Gate()
        hello = replace(hello, gate=self._gate.told())
        super().__init__(owner, hello, limits, settled, dialer=dialer, tickets=tickets)
        self._pid = 0
        self._exit: ProcessExit | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._pid, uid = _peer_credentials(transport)
        if uid != os.geteuid():
            self.abort()
        else:
            self.user = f"uid:{uid}"
            self._memory.connect(self._pid, self._gate)
        super().connection_made(transport)

    def _open(self) -> None:
        peer = self._session.peer
        if peer is not None and peer.gate and not self.closing:
            address, size = self._memory.attach(peer.gate)
            (offer,) = self._session.send(Envelope(Kind.OFFER, address, credit=size))
            self._enqueue([offer], len(offer))
        super()._open()

    async def memory_settled(self) -> None:
        """Wait until the peer has said what memory it offers, if it will, or the link is over."""
        if self._session.peer is not None and self._session.peer.gate and not self.closing:
            await self._memory.settled.wait()

    def adopt(self, transport: asyncio.WriteTransport, received: int) -> None:
        self._stop_watching()
        super().adopt(transport, received)

    def _wait_for_another(self) -> None:
        super()._wait_for_another()
        if self.broken:
            self._exit = ProcessExit(self._pid, self.give_up)

    def _over(self) -> None:
        self._stop_watching()
        super()._over()

    def _stop_watching(self) -> None:
        if self._exit is not None:
            self._exit.close()
            self._exit = None


def _peer_credentials(transport: asyncio.BaseTransport) -> tuple[int, int]:
    """Return the peer's process, 0 if the system does not say, and its user."""
    sock = transport.get_extra_info("socket")
    if sys.platform == "linux":
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, _ = _UCRED.unpack(credentials)
        return pid, uid
    credentials = sock.getsockopt(0, socket.LOCAL_PEERCRED, _XUCRED.size)
    return 0, int(_XUCRED.unpack(credentials)[1])
