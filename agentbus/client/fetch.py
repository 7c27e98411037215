"""Contexts by reference from elsewhere: what a summary stands for, asked of a process that keeps it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ..context import Context, check_root
from ..errors import DeadlineExceeded, PeerLost, UnknownContext
from ..routing import FindContext
from .delivery import Delivery
from .origin import Origin
from .peer import Peer
from .waiting import wait_until

if TYPE_CHECKING:
    from .node import Node

__all__ = ["fetch", "fetch_for"]


async def fetch(node: Node, root: bytes, peer: Peer | None, holder: str, origin: Origin) -> Context:
    """Return the context of that root, kept here, by a peer, or by the process of agent `holder`.

    Raises:
        UnknownContext: neither has it, or the peer has not referred to it.
        AgentbusError: the process could not be asked.
        ConfigError: it is no reference to a context.
    """
    check_root(root)
    store = node.peers.store
    context = store.get(root)
    if context is not None:
        return context
    if holder and node.hosts.mailbox(holder) is None:
        try:
            peer = await wait_until(origin.deadline_at, node.routes.reach(holder, origin))
        except TimeoutError:
            raise DeadlineExceeded(holder) from None
    if peer is None:
        return store.find(root)
    return await _ask(node, root, peer, origin)


async def fetch_for(node: Node, root: bytes, asker: Peer, delivery: Delivery) -> None:
    """Ask, in a broker, those who referred to a context for it, on behalf of a peer that may have
    it; what it gets goes with the answer.

    Raises:
        UnknownContext: nobody has it.
    """
    told = [peer for peer in node.peers if peer is not asker and root in peer.contexts.told]
    for peer in told:
        with contextlib.suppress(UnknownContext, PeerLost):
            delivery.context = await _ask(node, root, peer, delivery.origin)
            return
    raise UnknownContext(root.hex())


async def _ask(node: Node, root: bytes, peer: Peer, origin: Origin) -> Context:
    # The process asks in its own name: what it may have, it was referred to on this link.
    own = node.program_origin(origin.deadline_at - node.now())
    pending = node.say(peer, FindContext(root), own)
    await pending.wait()
    context = pending.context
    if context is None or context.root != root:
        raise UnknownContext(root.hex())
    return context
