"""What peers say to a process itself, at `$bus`: subscriptions, grants, and the broker's rules."""

from __future__ import annotations

import logging
from typing import Any, Protocol

from ..errors import InvalidMessage, PermissionDenied
from ..routing import Joined, Refused, ShowGrant
from .delivery import Delivery
from .direct import CLOSE, DirectLinks
from .gate import Gate
from .grants import GrantGate
from .payload import payload_type
from .remote import Peer, RemoteReplies
from .routes import Routes
from .topics import Topics

__all__ = ["LinkControl"]

logger = logging.getLogger("agentbus")


class Guarded(Protocol):
    """The process that things are said to."""

    routes: Routes
    topics: Topics
    direct: DirectLinks
    gate: Gate | None
    """What it takes of peers; None for all."""

    def joined(self, home: Peer, joined: Joined) -> None:
        """Take the broker's rules."""
        ...


class LinkControl:
    """Takes what is said to one process."""

    def __init__(self, node: Guarded) -> None:
        self._node = node

    def take(self, delivery: Delivery) -> None:
        """Do what a peer says.

        Raises:
            GrantRefused, PermissionDenied: it may not say that.
            InvalidMessage, InvalidName: it says nothing that is known.
        """
        if not isinstance(delivery.replies, RemoteReplies):
            raise InvalidMessage(delivery.schema, "it is for peers alone")
        peer = delivery.replies.peer
        if delivery.schema == payload_type(str).schema:
            text = payload_type(str).decode(delivery.payload)
            if text == CLOSE:
                delivery.acknowledge(self._node.direct.may_close(peer))
                return
            self._node.topics.change(peer, text)
            delivery.acknowledge()
            return
        said = _read(delivery)
        if isinstance(said, ShowGrant):
            gate = self._node.gate
            if isinstance(gate, GrantGate):
                gate.show(peer, said.grant)
        elif peer is not self._node.routes.home:
            raise InvalidMessage(delivery.schema, "the broker alone says that")
        elif isinstance(said, Joined):
            self._node.joined(peer, said)
        else:
            error = PermissionDenied(said.principal, said.operation, said.subject)
            logger.warning("the broker passes nothing on: %s", error)
            self._node.topics.refuse(said.source, error)
        delivery.acknowledge()


def _read(delivery: Delivery) -> ShowGrant | Joined | Refused:
    for kind in (ShowGrant, Joined, Refused):
        found = payload_type(kind)
        if delivery.schema == found.schema:
            said: Any = found.decode(delivery.payload)
            return said  # type: ignore[no-any-return]
    raise InvalidMessage(delivery.schema, "a process takes no such message at $bus")
