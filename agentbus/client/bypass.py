"""The broker's part in publishing past it; what is said and why is in `routing.bypass`."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

import anyio

from ..errors import AgentbusError, InvalidMessage
from ..names import check_topic
from ..routing import (
    COVER_SECONDS,
    MAX_DIRECT,
    MAX_WAYS,
    MOVE_SECONDS,
    Audience,
    Bypasses,
    Fence,
    FindListeners,
    LeaveOut,
    Left,
    Listen,
    Listener,
    PassBy,
    Passed,
    Readmit,
    Renew,
    Renewed,
    Uncover,
    Uncovered,
)
from .delivery import Delivery
from .job import Job
from .peer import Peer
from .subscription import Subscription
from .waiting import wait_until

if TYPE_CHECKING:
    from .node import Node

__all__ = ["ASKED", "Answering", "Asked", "Bypass"]

Asked = FindListeners | PassBy | Readmit | Renew
ASKED = (FindListeners, PassBy, Readmit, Renew)
"""What publishers say to a broker."""
Change = Uncovered[Subscription | Peer] | Left[Subscription | Peer]
"""What a publisher is to be told."""


class Bypass:
    """Tells publishers who listens, leaves those out that they send to, and takes that back."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._book: Bypasses[Subscription | Peer] = Bypasses()
        self._asked: Counter[Peer] = Counter()
        """Questions of each publisher that listeners have not answered yet."""

    def passed(self, publisher: Peer, topic: str) -> Collection[Subscription | Peer]:
        """Return whom a publisher's message on a topic is not to be passed on to."""
        return self._book.passed(publisher, topic)

    def take(self, publisher: Peer, said: Asked, delivery: Delivery) -> None:
        """Do what a publisher says, now or soon.

        Raises:
            InvalidName: it names no topic.
            InvalidMessage: it names too many.
        """
        if isinstance(said, Renew):
            delivery.acknowledge(self._renew(publisher, said.topics))
            return
        topic = check_topic(said.topic)
        is_full = self._asked[publisher] >= MAX_WAYS
        if isinstance(said, FindListeners) and is_full:
            delivery.acknowledge(Audience())
        elif isinstance(said, PassBy) and is_full:
            delivery.acknowledge(Passed(0))
        elif isinstance(said, FindListeners):
            self._answer(publisher, delivery, partial(self._find, publisher, topic))
        elif isinstance(said, Readmit):
            passed = self._book.passed(publisher, topic)
            named = [one for one in passed if isinstance(one, Peer) and one.name in said.processes]
            self._book.readmit(publisher, topic, named)
            delivery.acknowledge()
        else:
            self._pass_by(publisher, topic, said.process, delivery)

    def changed(self) -> Sequence[Change]:
        """Look at who listens now; returns what is to be said with `tell`."""
        if not self._book:
            return ()
        uncovered, left = self._book.changed(self._audience, self._node.now())
        return (*uncovered, *left)

    async def tell(self, changes: Sequence[Change]) -> None:
        """Return once all publishers know that a cover holds no more, or that a listener left and
        has read all that they had sent it."""
        async with anyio.create_task_group() as group:
            for change in changes:
                group.start_soon(self._tell, change)

    def forget(self, peer: Peer) -> None:
        """A process went away; its subscriptions are gone already."""
        left = self._book.forget(peer)
        self._asked = +self._asked  # without those who ask nothing
        if changes := (*left, *self.changed()):
            tell = partial(self.tell, changes)
            self._node.pool.run(Job("publishers were not told who left", tell))

    def _audience(
        self, publisher: Subscription | Peer, topic: str
    ) -> Collection[Subscription | Peer]:
        return [one for one in self._node.topics.subscribers(topic) if one is not publisher]

    async def _find(self, publisher: Peer, topic: str) -> Audience:
        """Ask all listeners of a topic where they accept links."""
        node, audience = self._node, self._audience(publisher, topic)
        peers = [one for one in audience if isinstance(one, Peer)]
        is_open = node.gate is None and not topic.startswith("$")
        if not is_open or len(peers) < len(audience) or len(peers) > MAX_DIRECT:
            return Audience()
        found: list[Listener] = []
        for peer in peers:
            listener = await node.tell(peer, Listen(), node.program_origin(None), Listener)
            if listener.process != peer.name or not listener.path:
                return Audience()
            found.append(listener)
        return Audience(tuple(found))

    def _pass_by(self, publisher: Peer, topic: str, process: str, delivery: Delivery) -> None:
        audience = self._audience(publisher, topic)
        named = [one for one in audience if isinstance(one, Peer) and one.name == process]
        turn = 0
        if self._node.gate is None and len(named) == 1:
            turn = self._book.pass_by(publisher, topic, named[0])
        if not turn:
            delivery.acknowledge(Passed(0))
            return
        passed = partial(self._passed, publisher, topic, named[0], turn)
        self._answer(publisher, delivery, passed)

    async def _passed(self, publisher: Peer, topic: str, listener: Peer, turn: int) -> Passed:
        """Answer once the listener has read what was passed on to it before."""
        node = self._node
        await node.tell(listener, Fence(), node.program_origin(MOVE_SECONDS))
        audience = self._audience(publisher, topic)
        return Passed(turn, self._book.cover(publisher, topic, audience, node.now()))

    def _renew(self, publisher: Peer, topics: Sequence[str]) -> Renewed:
        if len(topics) > MAX_WAYS:
            raise InvalidMessage(Renew.__name__, f"it names over {MAX_WAYS} topics")
        now, covers = self._node.now(), {}
        for topic in topics if self._node.gate is None else ():
            audience = self._audience(publisher, check_topic(topic))
            if number := self._book.cover(publisher, topic, audience, now):
                covers[topic] = number
        return Renewed(covers)

    async def _tell(self, change: Change) -> None:
        node, publisher, said = self._node, change.publisher, _said(change)
        if isinstance(publisher, Peer) and said is not None:
            until = node.now() + COVER_SECONDS
            if isinstance(change, Uncovered):
                until = change.until  # from then on the publisher knows by itself
            # One that went away publishes nothing any more.
            with contextlib.suppress(TimeoutError, AgentbusError):
                await wait_until(until, node.tell(publisher, said, node.program_origin(None)))

    def _answer(
        self, publisher: Peer, delivery: Delivery, answer: Callable[[], Awaitable[object]]
    ) -> None:
        async def counted() -> object:
            try:
                return await answer()
            finally:
                self._asked[publisher] -= 1

        self._asked[publisher] += 1
        self._node.pool.run(Answering(delivery, counted))


def _said(change: Change) -> Uncover | LeaveOut | None:
    if isinstance(change, Uncovered):
        return Uncover(change.topic, change.cover)
    listener = change.listener
    return (
        LeaveOut(change.topic, listener.name, change.turn) if isinstance(listener, Peer) else None
    )


class Answering:
    """Answers what a peer said with what something returns, or the error that it raises.

    Implements `Workload`.
    """

    def __init__(self, delivery: Delivery, answer: Callable[[], Awaitable[object]]) -> None:
        self._delivery = delivery
        self._answer = answer

    async def drain(self, task: asyncio.Task[object]) -> None:
        """Answer."""
        try:
            answer = await self._answer()
        except AgentbusError as error:
            self._delivery.replies.fail(error)
        else:
            self._delivery.acknowledge(answer)
