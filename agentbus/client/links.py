"""What a broker does with the links of its process, besides answering what comes over them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..errors import PermissionDenied
from .gate import Gate
from .job import Job
from .peer import Peer

if TYPE_CHECKING:
    from .node import Node

__all__ = ["Links"]


class Links:
    """All links of one process."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def guard(self, gate: Gate | None) -> None:
        """Have a gate decide what is taken of peers; None takes all."""
        self._node.guard(gate)

    def peers(self) -> tuple[Peer, ...]:
        """Return the processes at the other ends."""
        return tuple(self._node.peers)

    def joined(self, peer: Peer, principal: str) -> None:
        """A peer has joined, and who it is is known: its name is its own from here on."""
        self._node.peers.joined(peer, principal)

    def recheck(self) -> list[tuple[Peer, PermissionDenied]]:
        """Drop what peers have subscribed to and may no longer; returns what that was."""
        return self._node.topics.recheck()

    def failed(self, code: str) -> None:
        """Count what was not taken, by the error's code."""
        self._node.metrics.failed(code)

    def tell(self, peer: Peer, said: object) -> None:
        """Say something to the process of a peer itself, soon."""
        node = self._node
        tell = partial(node.tell, peer, said, node.program_origin(None))
        node.pool.run(Job(f"{peer.name} was not told {type(said).__name__}", tell))
