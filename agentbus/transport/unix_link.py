"""A link over a Unix stream socket, between processes of one user."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys

from .link import StreamLink

__all__ = ["UnixLink"]

_UCRED = struct.Struct("3i")
_XUCRED = struct.Struct("IIh16I")
"""macOS: version, uid, number of groups, groups."""


class UnixLink(StreamLink):
    """Goes no further than the connection if the other side is another user."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        pid, uid = _peer_credentials(transport)
        if uid != os.geteuid():
            self.abort()
        else:
            self.user = f"uid:{uid}"
            self._memory.connect(pid)
        super().connection_made(transport)


def _peer_credentials(transport: asyncio.BaseTransport) -> tuple[int, int]:
    """Return the peer's process, 0 if the system does not say, and its user."""
    sock = transport.get_extra_info("socket")
    if sys.platform == "linux":
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, _ = _UCRED.unpack(credentials)
        return pid, uid
    credentials = sock.getsockopt(0, socket.LOCAL_PEERCRED, _XUCRED.size)
    return 0, int(_XUCRED.unpack(credentials)[1])
