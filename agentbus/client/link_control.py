"""What peers say to a process itself, at `$bus`: subscriptions, grants, and the broker's rules."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import InvalidMessage, PermissionDenied
from ..routing import Fence, FindContext, Joined, LeaveOut, Listen, Refused, ShowGrant, Uncover
from .bypass import ASKED, Answering, Asked
from .delivery import Delivery
from .direct import CLOSE
from .fetch import fetch_for
from .grants import GrantGate
from .payload import payload_type
from .peer import Peer
from .remote import RemoteReplies

if TYPE_CHECKING:
    from .node import Node

__all__ = ["LinkControl"]

logger = logging.getLogger("agentbus")


class LinkControl:
    """Takes what is said to one process."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def take(self, delivery: Delivery) -> None:
        """Do what a peer says.

        Raises:
            GrantRefused, PermissionDenied: it may not say that.
            InvalidMessage, InvalidName: it says nothing that is known.
            UnknownContext: it asks for a context that it was not referred to.
        """
        if not isinstance(delivery.replies, RemoteReplies):
            raise InvalidMessage(delivery.schema, "it is for peers alone")
        peer = delivery.replies.peer
        said = _read(delivery)
        if isinstance(said, str):
            self._take_text(peer, said, delivery)
        elif isinstance(said, ASKED):
            self._take_from_publisher(peer, said, delivery)
        elif isinstance(said, ShowGrant):
            self._take_grant(peer, said, delivery)
        elif isinstance(said, FindContext):
            self._find(peer, said.root, delivery)
        elif isinstance(said, Fence):
            delivery.acknowledge()
        else:
            self._take_from_home(peer, said, delivery)

    def _find(self, peer: Peer, root: bytes, delivery: Delivery) -> None:
        exchange, node = peer.exchange, self._node
        carried = node.relay is not None and exchange.was_referred_to(peer.contexts, root)
        if carried and exchange.store.get(root) is None:
            node.pool.run(Answering(delivery, partial(fetch_for, node, root, peer, delivery)))
            return
        delivery.context = exchange.find(peer.contexts, root)
        delivery.acknowledge()

    def _take_text(self, peer: Peer, text: str, delivery: Delivery) -> None:
        node = self._node
        if text == CLOSE:
            delivery.acknowledge(node.direct.may_close(peer))
            return
        node.topics.change(peer, text)
        bypass = node.topics.bypass
        changes = () if bypass is None else bypass.changed()
        if bypass is not None and changes:
            # Who subscribes is told so once nobody publishes any more without knowing of it.
            node.pool.run(Answering(delivery, partial(bypass.tell, changes)))
        else:
            delivery.acknowledge()

    def _take_from_publisher(self, peer: Peer, said: Asked, delivery: Delivery) -> None:
        bypass = self._node.topics.bypass
        if bypass is None:
            raise InvalidMessage(delivery.schema, "a broker alone takes that")
        bypass.take(peer, said, delivery)

    def _take_grant(self, peer: Peer, said: ShowGrant, delivery: Delivery) -> None:
        gate = self._node.gate
        if isinstance(gate, GrantGate):
            gate.show(peer, said.grant)
        delivery.acknowledge()

    def _take_from_home(self, peer: Peer, said: _FromHome, delivery: Delivery) -> None:
        node = self._node
        if peer is not node.routes.home:
            raise InvalidMessage(delivery.schema, "the broker alone says that")
        if isinstance(said, Listen):
            node.pool.run(Answering(delivery, node.membership.listen))
            return
        if isinstance(said, LeaveOut):
            left = node.direct_topics.leave_out(said)
            node.pool.run(Answering(delivery, partial(node.direct_topics.fence, left)))
            return
        if isinstance(said, Joined):
            node.joined(peer, said)
        elif isinstance(said, Uncover):
            node.direct_topics.uncover(said)
        else:
            error = PermissionDenied(said.principal, said.operation, said.subject)
            logger.warning("the broker passes nothing on: %s", error)
            node.topics.refuse(said.source, error)
        delivery.acknowledge()


_FromHome = Joined | Refused | Uncover | LeaveOut | Listen
_SAID = (str, FindContext, ShowGrant, Joined, Refused, Fence, Uncover, LeaveOut, Listen, *ASKED)


def _read(delivery: Delivery) -> Any:
    """Return what was said.

    Raises:
        InvalidMessage: it is nothing that is said to processes.
    """
    for kind in _SAID:
        found = payload_type(kind)
        if delivery.schema == found.schema:
            return found.decode(delivery.payload)
    raise InvalidMessage(delivery.schema, "a process takes no such message at $bus")
