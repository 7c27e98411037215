"""The publisher's part in publishing past the broker; what is said and why is in `routing.bypass`.

A topic on which many messages leave in a short time is looked at: if the broker names all who
listen and each can be reached by a link of its own, they are moved there one by one. While one
moves, messages for it are held until the broker says that it has read all that came the old way, so
that their order stays. A listener that does not answer holds up nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

from ..errors import AgentbusError
from ..routing import (
    COVER_SECONDS,
    MAX_DIRECT,
    MAX_WAYS,
    MOVE_SECONDS,
    Audience,
    Fence,
    FindListeners,
    LeaveOut,
    PassBy,
    Passed,
    Readmit,
    Renew,
    Renewed,
    Uncover,
)
from .exchange import Pending
from .job import Job
from .peer import Peer
from .ways import Move, Room, Way

if TYPE_CHECKING:
    from .node import Node

__all__ = ["DirectTopics"]

_RENEW_EVERY = COVER_SECONDS / 3
_IDLE = 10
"""How many times in a row a way was not used when it is given up."""
_RETRY_AFTER = 2.0
"""Seconds until it is looked again who listens, where some cannot be sent to."""


class DirectTopics:
    """Moves topics that this process publishes much on to links of their own, and back."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.ways = node.topics.ways
        self.ways.consider = self._consider
        self._timer: asyncio.TimerHandle | None = None
        self._renewing = False
        self._rooms: dict[Peer, Room] = {}
        """Of all links over which a topic was ever published."""

    def uses(self, peer: Peer) -> bool:
        """Tell whether messages on some topic go to a peer without the broker."""
        if peer not in self._rooms:
            return False
        ways = self.ways
        return any(peer in way.direct or any(m.peer is peer for m in way.moves) for way in ways)

    def uncover(self, said: Uncover) -> None:
        """The broker needs what is published on a topic again."""
        way = self.ways.of(said.topic)
        if way is not None:
            way.revoked = max(way.revoked, said.cover)
            way.until = 0.0

    def leave_out(self, said: LeaveOut) -> list[Peer]:
        """A process does not listen to a topic any more; returns the links over which it was sent
        something, which are to be told to `fence`."""
        way, left = self.ways.of(said.topic), list[Peer]()
        if way is not None:
            for move in way.moves:
                if move.peer.name == said.process:
                    move.left = max(move.left, said.turn)
            turns = way.direct.items()
            left = [p for p, turn in turns if p.name == said.process and turn <= said.turn]
            for peer in left:
                del way.direct[peer]
        self._readmit(said.topic, said.process)
        return left

    async def fence(self, peers: Collection[Peer]) -> None:
        """Return once listeners have read what they were sent."""
        for peer in peers:
            await self._node.tell(peer, Fence(), self._node.program_origin(None))

    def end(self) -> None:
        """Publish by way of the home alone, which is told so."""
        for way in self.ways:
            self._give_up(way)
            for move in way.moves:
                move.lost = True

    def lost(self, peer: Peer, *, is_home: bool) -> None:
        """A link is over."""
        for way in self.ways:
            for move in way.moves:
                move.lost |= is_home or move.peer is peer
            if not is_home and way.direct.pop(peer, 0):
                self._readmit(way.topic, peer.name)
        self._rooms.pop(peer, None)
        if is_home:
            self.ways.clear()

    async def settle(self) -> None:
        """Return once nothing is held for a listener; of a bus that ends, no other begins to move."""
        while moves := [move for way in self.ways for move in way.moves]:
            await moves[0].over.wait()

    def close(self) -> None:
        """Renew nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _consider(self, way: Way, now: float) -> None:
        """Look who listens to a topic that is published much on, if the home is to be spared."""
        if way.busy or way.moves or way.until > now or way.retry_at > now:
            return
        if self._node.routes.may_pass_by and sum(1 for one in self.ways if one.direct) < MAX_WAYS:
            way.busy = True
            self._node.pool.run(Job(f"who listens to {way.topic}", partial(self._look, way)))

    async def _look(self, way: Way) -> None:
        try:
            await self._move_all(way)
        finally:
            way.busy = False
            way.retry_at = self._node.now() + _RETRY_AFTER

    async def _move_all(self, way: Way) -> None:
        """Begin to move all who listen, if all can be reached."""
        node, home = self._node, self._node.routes.home
        if home is None:
            return
        origin = node.program_origin(None)
        audience: Audience = await node.tell(home, FindListeners(way.topic), origin, Audience)
        if len(audience.processes) > min(MAX_DIRECT, node.settings.links):
            return
        peers = []
        for listener in audience.processes:
            peer = await node.routes.reach_listener(listener)
            if peer is None:
                return
            peers.append(peer)
        for peer in peers:
            if (
                node.closed
                or node.routes.home is not home
                or node.peers.named(peer.name) is not peer
            ):
                return  # this process or a link is closed, or about to be
            if peer not in way.direct:
                self._begin(way, home, peer)

    def _begin(self, way: Way, home: Peer, peer: Peer) -> None:
        """Have the home leave a listener out of what is published from here on, which is held.

        Raises:
            AgentbusError: the home cannot be told; nothing has changed.
        """
        node, asked_at = self._node, self._node.now()
        said = PassBy(way.topic, peer.name)
        asked = node.say(home, said, node.program_origin(MOVE_SECONDS), Passed)
        room = self._rooms.setdefault(peer, Room(node.settings.limits))
        move = Move(peer, room, node.metrics)
        way.moves.append(move)
        moving = partial(self._move, way, home, move, asked, asked_at)
        node.pool.run(Job(f"{peer.name} is not sent to", moving))

    async def _move(
        self, way: Way, home: Peer, move: Move, asked: Pending, asked_at: float
    ) -> None:
        """Once the home leaves a listener out, send it what it does not get from then on."""
        passed = None
        try:
            passed = await asked.wait()
        finally:
            way.moves.remove(move)
            if passed is None:
                self._fail(way, move)
            else:
                self._moved(way, home, move, passed, asked_at)
            move.end()

    def _moved(self, way: Way, home: Peer, move: Move, passed: Passed, asked_at: float) -> None:
        node, peer = self._node, move.peer
        if not passed.turn or move.left >= passed.turn:
            return
        if move.lost or peer.link.closing or node.routes.home is not home:
            self._fail(way, move)
            return
        way.direct[peer] = passed.turn
        for source, schema, frames in move.held:
            node.topics.send(peer, source, way.topic, schema, frames)
        self._covered(way, passed.cover, asked_at)
        self._start()

    def _fail(self, way: Way, move: Move) -> None:
        """A listener gets nothing but by the home; what was held for it is lost."""
        self._node.metrics.dropped += len(move.held)
        self._readmit(way.topic, move.peer.name)

    def _covered(self, way: Way, cover: int, since: float) -> None:
        """Keep messages from the home; not if one needs it since the home was asked."""
        if cover > way.revoked and since > way.readmitted:
            way.until = max(way.until, since + COVER_SECONDS)

    def _readmit(self, topic: str, *processes: str) -> None:
        """Have the home pass on to listeners again, from the next message on."""
        node, home = self._node, self._node.routes.home
        way = self.ways.of(topic)
        if way is not None:
            way.until, way.readmitted = 0.0, node.now()
        if home is None or node.closed:
            return
        said = Readmit(topic, processes)
        try:
            told = node.say(home, said, node.program_origin(None))
        except AgentbusError:
            # Somebody would get nothing any more: with the link gone all of this ends.
            home.link.abort()
        else:
            node.pool.run(Job("the broker was not told who needs it", told.wait))

    def _give_up(self, way: Way) -> None:
        if way.direct:
            names, way.direct = [peer.name for peer in way.direct], {}
            self._readmit(way.topic, *names)

    async def _give_up_unused(self, way: Way) -> None:
        """Give a way up once its listeners have read all that they were sent, if it is still unused:
        nothing that goes by the home is to overtake it."""
        mark, turns = way.mark, dict(way.direct)
        try:
            await self.fence(turns)
            if (way.count, way.since) == mark and way.direct == turns:
                self._give_up(way)
        finally:
            way.busy = False

    def _start(self) -> None:
        node = self._node
        if self._timer is None and not node.closed:
            self._timer = node.loop.call_later(_RENEW_EVERY, self._tick)

    def _tick(self) -> None:
        """Renew the covers of topics that are in use, and give up those that are not."""
        self._timer = None
        used: list[str] = []
        for way in self.ways:
            mark = (way.count, way.since)
            way.idle = way.idle + 1 if mark == way.mark else 0
            way.mark = mark
            if way.direct:
                used.append(way.topic)
                if way.idle >= _IDLE and not way.busy:
                    way.busy = True
                    unused = partial(self._give_up_unused, way)
                    self._node.pool.run(Job(f"{way.topic} is still sent to all itself", unused))
        if not used:
            return
        self._start()
        home = self._node.routes.home
        if home is not None and not self._renewing:
            self._renewing = True
            renew = partial(self._renew, home, tuple(used[:MAX_WAYS]))
            self._node.pool.run(Job("what goes past the broker was not renewed", renew))

    async def _renew(self, home: Peer, topics: tuple[str, ...]) -> None:
        node, asked_at = self._node, self._node.now()
        try:
            origin = node.program_origin(None)
            renewed: Renewed = await node.tell(home, Renew(topics), origin, Renewed)
        finally:
            self._renewing = False
        if node.routes.home is home:
            for topic, cover in renewed.covers.items():
                way = self.ways.of(topic)
                if way is not None and way.direct:
                    self._covered(way, cover, asked_at)
