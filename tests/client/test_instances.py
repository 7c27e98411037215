"""One instance for each key."""

from __future__ import annotations

from typing import ClassVar

import anyio
import pytest

from agentbus import Agent, Bus, BusSettings, Call, handler
from agentbus.errors import ConfigError, HandlerFailed, InvalidName, MailboxFull, NoResponder

from .agents import Hold, Say
from .conftest import Pair

pytestmark = pytest.mark.anyio


class Session(Agent):
    """Remembers what its user said, also over a stop."""

    kept: ClassVar[dict[str, list[str]]] = {}
    log: ClassVar[list[str]] = []
    slow_stop: ClassVar[anyio.Event | None] = None
    held: ClassVar[anyio.Event]
    release: ClassVar[anyio.Event]

    async def started(self) -> None:
        self.log.append(f"start {self.name}")
        if self.name.endswith("/broken"):
            raise ValueError("cannot start")
        self.said = list(self.kept.get(self.name, ()))

    async def stopped(self) -> None:
        if self.slow_stop is not None:
            await self.slow_stop.wait()
        self.kept[self.name] = self.said
        self.log.append(f"stop {self.name}")

    @handler
    async def say(self, say: Say, call: Call) -> list[str]:
        self.said.append(say.text)
        return self.said

    @handler
    async def hold(self, hold: Hold, call: Call) -> None:
        self.held.set()
        await self.release.wait()


@pytest.fixture(autouse=True)
def fresh() -> None:
    Session.kept, Session.log, Session.slow_stop = {}, [], None
    Session.held, Session.release = anyio.Event(), anyio.Event()


async def test_each_key_has_its_own_state(pair: Pair) -> None:
    async with pair.open() as (host, asker):
        await host.spawn(Session, name="session", per_key=True)
        for text in ("one", "two"):
            for key in ("ann", "bob"):
                said = await asker.request(f"session/{key}", Say(text=f"{key} {text}"))
        assert said == ["bob one", "bob two"]
        assert Session.log == ["start session/ann", "start session/bob"]
    assert Session.log[2:] == ["stop session/ann", "stop session/bob"]
    assert Session.kept["session/ann"] == ["ann one", "ann two"]


@pytest.mark.promise("order.key")
async def test_order_by_key_and_keys_beside_each_other(pair: Pair) -> None:
    async with pair.open() as (host, asker):
        await host.spawn(Session, name="session", per_key=True)
        async with anyio.create_task_group() as group:
            group.start_soon(asker.request, "session/ann", Hold())
            with anyio.fail_after(5):
                await Session.held.wait()
                for number in range(5):
                    group.start_soon(asker.request, "session/ann", Say(text=str(number)))
                assert await asker.request("session/bob", Say(text="bob")) == ["bob"]
            Session.release.set()
        said = await asker.request("session/ann", Say(text="last"))
        assert said == ["0", "1", "2", "3", "4", "last"]


async def test_what_is_no_address_or_nobody(pair: Pair) -> None:
    async with pair.open() as (host, asker):
        await host.spawn(Session, name="session", per_key=True)
        with pytest.raises(NoResponder):
            await asker.request("session", Say(text="x"))
        with pytest.raises(InvalidName):
            await asker.request("session/", Say(text="x"))
        with pytest.raises(InvalidName):
            await asker.request("session/a b", Say(text="x"))
        with pytest.raises(NoResponder):
            await asker.request("nobody/ann", Say(text="x"))
        with pytest.raises(ConfigError, match="class"):
            await host.spawn(Session(), name="other", per_key=True)
        assert [agent.name for agent in host.local_agents()] == ["session"]
        assert len(host.handlers("session")) == 2


async def test_one_that_cannot_start_fails_its_callers_and_is_tried_again(pair: Pair) -> None:
    async with pair.open() as (host, asker):
        await host.spawn(Session, name="session", per_key=True)
        for _ in range(2):
            with pytest.raises(HandlerFailed, match="cannot start"):
                await asker.request("session/broken", Say(text="x"))
        assert Session.log == ["start session/broken"] * 2
        assert await asker.request("session/ann", Say(text="x")) == ["x"]


async def test_the_longest_unused_makes_room() -> None:
    async with Bus.open(settings=BusSettings(instances=2)) as bus:
        await bus.spawn(Session, name="s", per_key=True)
        for key in ("a", "b", "a", "c"):
            await bus.request(f"s/{key}", Say(text=key))
        assert Session.log == ["start s/a", "start s/b", "start s/c", "stop s/b"] or (
            Session.log == ["start s/a", "start s/b", "stop s/b", "start s/c"]
        )
        assert await bus.request("s/b", Say(text="again")) == ["b", "again"]


async def test_the_next_one_waits_until_the_last_one_has_stopped() -> None:
    async with Bus.open(settings=BusSettings(instances=1)) as bus:
        await bus.spawn(Session, name="s", per_key=True)
        await bus.request("s/a", Say(text="first"))
        Session.slow_stop = anyio.Event()
        await bus.request("s/b", Say(text="other"))
        async with anyio.create_task_group() as group:

            async def again() -> None:
                assert await bus.request("s/a", Say(text="second")) == ["first", "second"]

            group.start_soon(again)
            Session.slow_stop.set()


async def test_no_room_while_all_are_busy() -> None:
    async with Bus.open(settings=BusSettings(instances=1)) as bus:
        await bus.spawn(Session, name="s", per_key=True)
        async with anyio.create_task_group() as group:
            group.start_soon(bus.request, "s/a", Hold())
            with anyio.fail_after(5):
                await Session.held.wait()
            with pytest.raises(MailboxFull):
                await bus.request("s/b", Say(text="x"))
            Session.release.set()


async def test_ten_thousand_keys_are_cheap() -> None:
    async with Bus.open() as bus:
        await bus.spawn(Session, name="s", per_key=True)
        with anyio.fail_after(20):
            for number in range(10_000):
                await bus.request(f"s/{number}", Say(text="x"))
        (report,) = bus.report().agents
        assert report.name == "s"
        assert report.handle.count == 10_000
