"""Processes of which one publishes to others past the broker, and what tests look at in them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from agentbus import Bus, BusSettings, Subscription
from agentbus.client.delivery import Delivery
from agentbus.client.direct_topics import DirectTopics
from agentbus.client.link_control import LinkControl
from agentbus.client.payload import payload_type
from agentbus.client.peer import Peer
from agentbus.client.ways import HOT, Way
from agentbus.daemon import start_broker
from agentbus.routing import Bypasses

__all__ = [
    "RAPID",
    "TOPIC",
    "Late",
    "Numbers",
    "book_of",
    "buses",
    "direct",
    "is_covered",
    "link_to",
    "linked",
    "listeners",
    "look_at_once",
    "named",
    "way_of",
]

TOPIC = "news"
RAPID = 3 * HOT


@asynccontextmanager
async def buses(
    folder: Path, *names: str, settings: BusSettings | None = None
) -> AsyncIterator[list[Bus]]:
    """A broker, which comes first, and processes of these names."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        path = f"{folder}/run/bus.sock"
        settings = replace(settings or BusSettings(), subscription=1_000_000)
        opened = [await enter(Bus.open(listen=path, name="broker", settings=settings))]
        await start_broker(opened[0])
        joining = (Bus.open(f"unix://{path}", name=name, settings=settings) for name in names)
        yield opened + [await enter(bus) for bus in joining]


def direct(bus: Bus) -> DirectTopics:
    return bus._sender.direct_topics


def way_of(bus: Bus) -> Way:
    way = direct(bus).ways.of(TOPIC)
    assert way is not None
    return way


def book_of(broker: Bus) -> Bypasses[Subscription | Peer]:
    bypass = broker._sender.topics.bypass
    assert bypass is not None
    return bypass._book


def listeners(bus: Bus, topic: str = TOPIC) -> set[str]:
    """Name the processes that a bus sends a topic to without the broker."""
    way = direct(bus).ways.of(topic)
    return {named(peer) for peer in way.direct} if way is not None else set()


def named(peer: Peer) -> str:
    """Return a process's name without its random end."""
    return peer.name.rpartition("-")[0]


def link_to(bus: Bus, name: str) -> Peer:
    (peer,) = [peer for peer in bus._sender.peers if named(peer) == name]
    return peer


def linked(bus: Bus) -> set[str]:
    return {named(peer) for peer in bus._sender.peers}


def is_covered(bus: Bus, topic: str = TOPIC) -> bool:
    """Tell whether the broker gets nothing of what a bus publishes on a topic."""
    way = direct(bus).ways.of(topic)
    return way is not None and bool(way.direct) and way.until > bus._sender.now()


class Numbers:
    """Publishes 0, 1, 2 and so on."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.next = 0

    async def publish(self, count: int = 1) -> None:
        for _ in range(count):
            await self.bus.publish(TOPIC, self.next)
            self.next += 1

    async def go_direct(self, *names: str) -> None:
        """Publish until these processes, and no other, are sent to directly."""
        wanted = set(names)
        with anyio.fail_after(10):
            while listeners(self.bus) != wanted or not is_covered(self.bus):
                await self.publish()
                await asyncio.sleep(0)

    async def all_read(self, messages: Subscription, since: int = 0) -> None:
        """See that a subscription got each number once, in order, from `since` on at the latest."""
        with anyio.fail_after(10):
            first = (await anext(messages)).value
            assert first <= since
            for number in range(first + 1, self.next):
                assert (await anext(messages)).value == number
        assert not messages.dropped


@pytest.fixture
def look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again who listens as soon as messages come fast."""
    monkeypatch.setattr("agentbus.client.direct_topics._RETRY_AFTER", 0.0)


class Late:
    """Has processes answer what is said to them of a kind when `release` is called, not before.

    `heard` names who said it, to whichever process.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: type, *buses: Bus) -> None:
        self._take = LinkControl.take
        self._waiting: list[tuple[LinkControl, Delivery]] = []
        self._schema = payload_type(kind).schema
        self.heard: list[str] = []
        self._late = [bus._sender._control for bus in buses]
        monkeypatch.setattr(LinkControl, "take", lambda *given: self._taken(*given))

    def __len__(self) -> int:
        return len(self._waiting)

    def holds(self, count: int) -> bool:
        return len(self) == count

    def _taken(self, control: LinkControl, delivery: Delivery) -> None:
        is_meant = delivery.schema == self._schema
        if is_meant:
            self.heard.append(delivery.peer.rpartition("-")[0])
        if is_meant and control in self._late:
            self._waiting.append((control, delivery))
        else:
            self._take(control, delivery)

    def release(self) -> None:
        self._late.clear()
        waiting, self._waiting = self._waiting, []
        for control, delivery in waiting:
            self._take(control, delivery)
