"""What a ZeroMQ socket tells of its connections. Events come late or not at all: hints only."""

from __future__ import annotations

import struct
from collections.abc import Callable

import zmq

from .zmq_io import BATCH, Readiness

__all__ = ["Monitor"]

_EVENT = struct.Struct("=Hi")


class Monitor:
    """Calls `tell` with each chosen event of a socket and its value."""

    def __init__(
        self, socket: zmq.Socket[bytes], events: int, tell: Callable[[int, int], None]
    ) -> None:
        self._watched = socket
        self._tell = tell
        self._socket = socket.get_monitor_socket(events)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._readiness = Readiness(self._socket, self._drain)
        self._closed = False

    def close(self) -> None:
        """Tell no more. Close the monitor before what it watches."""
        self._closed = True
        self._readiness.stop()
        self._watched.disable_monitor()
        self._socket.close()

    def _drain(self) -> None:
        for _ in range(BATCH):
            if self._closed:
                return
            try:
                event, _ = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._tell(*_EVENT.unpack(event))
