"""Links between processes: the interface, and one file for each way to make them."""

from __future__ import annotations

from .base import Link, LinkOwner, Listener
from .inproc import memory_pair
from .unix import connect_unix, listen_unix

__all__ = ["Link", "LinkOwner", "Listener", "connect_unix", "listen_unix", "memory_pair"]
