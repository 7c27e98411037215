"""Links between processes: the interface, and one file for each way to make them.

`connect_tcp` and `listen_tcp` are in `zmq_connect` and `zmq_listen`, which load a library that a
bus within one host does not need.
"""

from __future__ import annotations

from .base import TCP_SCHEME, Link, LinkOwner, Listener
from .inproc import memory_pair
from .unix import connect_unix, listen_unix, remove_stale

__all__ = [
    "TCP_SCHEME",
    "Link",
    "LinkOwner",
    "Listener",
    "connect_unix",
    "listen_unix",
    "memory_pair",
    "remove_stale",
]
