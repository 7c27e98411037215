"""What decides whether something that a peer sends is taken at all."""

from __future__ import annotations

from typing import Protocol

from .peer import Peer

__all__ = ["MAX_DECISIONS", "Gate"]

MAX_DECISIONS = 4096
"""Decisions that are kept for one link; with more, all are taken anew."""


class Gate(Protocol):
    """Decides what peers may do here. A process without a gate takes all."""

    def check_request(self, peer: Peer, source: str, target: str) -> None:
        """Let a request in.

        Raises:
            AgentbusError: what is to be the caller's error.
        """
        ...

    def check_publish(self, peer: Peer, source: str, topic: str) -> None:
        """Let a message on a topic in.

        Raises:
            AgentbusError: why not.
        """
        ...

    def check_subscribe(self, peer: Peer, pattern: str) -> None:
        """Let a peer have what is published here.

        Raises:
            AgentbusError: what is to be its error.
        """
        ...
