"""The links that this process made to others than its home: how many there are, and for how long.

A link is closed only when both sides have nothing under way on it. So that no request is sent into
a link that closes, the side that wants to close it first lets go of it itself, and asks the other
to do the same; who has something under way refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from ..errors import AgentbusError
from .peer import Peer

if TYPE_CHECKING:
    from .node import Node

__all__ = ["CLOSE", "DirectLinks"]

CLOSE = "close"
"""Said to `$bus`: nothing is sent over this link any more; may it be closed?"""
_LOOKS = 4
"""How often in `idle_link` seconds it is looked which links are used."""


class _Use:
    """When a look at a link last found that it had been used since the look before."""

    __slots__ = ("at", "mark", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.mark = (0, 0)
        """The latest requests there and back: to compare them costs a request nothing."""
        self.at = 0.0


class DirectLinks:
    """Closes links that are idle, and makes room for new ones."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._used: dict[Peer, _Use] = {}
        self._leaving: set[Peer] = set()
        """Those that nothing more is sent over."""
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._used) - len(self._leaving)

    def opened(self, path: str, peer: Peer) -> None:
        """Note a link that this process made."""
        self._used[peer] = _Use(path)
        self._look()
        self._start()

    def forget(self, peer: Peer) -> None:
        """A link is over."""
        self._used.pop(peer, None)
        self._leaving.discard(peer)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    async def make_room(self) -> bool:
        """See that one more link may be made; returns False if all that there may be are in use."""
        limit = self._node.settings.links
        self._look()
        for peer in sorted(self._used, key=lambda peer: self._used[peer].at):
            if len(self) < limit:
                return True
            if peer not in self._leaving and self._is_idle(peer):
                await self.part(peer)
        return len(self) < limit

    def may_close(self, peer: Peer) -> bool:
        """Answer a peer that wants to close its link, and send it nothing there from here on."""
        is_free = not peer.link.shares_memory and not self._node.direct_topics.uses(peer)
        agreed = is_free and not peer.outgoing and len(peer.incoming) == 1
        if agreed:
            self._node.let_go(peer)
        return agreed

    async def part(self, peer: Peer) -> None:
        """Close a link, if the peer has nothing under way on it either."""
        node, use = self._node, self._used.get(peer)
        if use is None or peer in self._leaving or not self._is_idle(peer):
            return
        self._leaving.add(peer)
        node.let_go(peer)
        agreed = False
        try:
            with contextlib.suppress(AgentbusError):  # it is lost, or the peer does not answer
                agreed = await node.tell(peer, CLOSE, node.program_origin(None), bool)
        finally:
            if not agreed and peer in self._used:
                self._leaving.discard(peer)
                use.at = node.now()
                node.take_back(use.path, peer)
        if agreed:
            await peer.link.aclose()

    def _look(self) -> None:
        """Note which links were used since the last look."""
        now = self._node.now()
        for peer, use in self._used.items():
            mark = (peer.last_id, peer.link.requests_received)
            if mark != use.mark or not self._is_idle(peer):
                use.mark, use.at = mark, now

    def _is_idle(self, peer: Peer) -> bool:
        link = peer.link
        if peer.outgoing or peer.incoming or link.broken or link.shares_memory:
            return False
        return not self._node.direct_topics.uses(peer)

    def _start(self) -> None:
        node = self._node
        if self._timer is None and node.settings.idle_link and not node.closed:
            self._timer = node.loop.call_later(node.settings.idle_link / _LOOKS, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        self._look()
        self._node.routes.forget_carried()
        due = self._node.now() - self._node.settings.idle_link
        for peer, use in self._used.items():
            if use.at <= due and peer not in self._leaving:
                self._node.pool.run(_Parting(self, peer))
        if self._used:
            self._start()


class _Parting:
    """A `Workload`: closes one link."""

    def __init__(self, links: DirectLinks, peer: Peer) -> None:
        self._links = links
        self._peer = peer

    async def drain(self, task: asyncio.Task[object]) -> None:
        """Close it, if the peer agrees."""
        await self._links.part(self._peer)
