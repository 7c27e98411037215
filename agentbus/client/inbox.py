"""What takes that which links bring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..errors import AgentbusError
from ..messages import Envelope

if TYPE_CHECKING:
    from .exchange import Pending
    from .mailbox import Delivery
    from .offer import Offer
    from .remote import Peer

__all__ = ["Inbox"]


class Inbox(Protocol):
    """Takes what links bring: this process's node."""

    def deliver(self, target: str, delivery: Delivery) -> None:
        """Queue a request for an agent; raises what is to be the caller's error."""
        ...

    def begin(self) -> None:
        """Begin to handle what was delivered."""
        ...

    def published(self, peer: Peer, envelope: Envelope) -> None:
        """Take a message on a topic."""
        ...

    def handed_over(self, peer: Peer, pending: Pending, offer: Offer) -> None:
        """Ask another agent, as the one that this process had asked wants it."""
        ...

    def draining_elsewhere(self, name: str) -> None:
        """The process that has this agent takes no more requests."""
        ...

    def peer_broken(self, peer: Peer) -> None:
        """The connection to a process broke: make another one, if this process made it."""
        ...

    def peer_lost(self, peer: Peer, error: AgentbusError | None) -> None:
        """A link is gone; without an error, it was closed in order."""
        ...
