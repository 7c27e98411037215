"""The process that others joined goes away and comes again: they come back by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from agentbus import Bus, BusSettings
from agentbus.daemon import start_broker
from agentbus.errors import AgentbusError, NameTaken, NoResponder, PeerLost
from agentbus.routing import PRESENCE

from .agents import Echo, Hold, Ping, Pong
from .faults import Between
from .tcp_keys import CLIENT, LISTENING, LOOPBACK

pytestmark = pytest.mark.anyio

BRIEF = BusSettings(resume_timeout=0.05)


class Home:
    """A broker that ends without a word, and is started again at the same place."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._over_tcp = kind == "tcp"
        self._folder = folder
        self._starts = 0
        self._stack = AsyncExitStack()
        self._between: Between | None = None
        self.bus: Bus | None = None

    @property
    def url(self) -> str:
        assert self._between is not None
        return self._between.url

    async def start(self) -> None:
        self._starts += 1
        bus = Bus.open(
            listen=LOOPBACK if self._over_tcp else f"{self._folder}/run/{self._starts}.sock",
            name="broker",
            settings=BRIEF,
            keys=LISTENING if self._over_tcp else None,
        )
        self.bus = await self._stack.enter_async_context(bus)
        await start_broker(self.bus)
        if self._between is None:
            between = Between.open(self.bus.listens_at, f"{self._folder}/between")
            self._between = await self._stack.enter_async_context(between)
        self._between.lead_to(self.bus.listens_at)

    def vanish(self) -> None:
        """End all connections and lead nobody to this broker any more."""
        assert self._between is not None
        self._between.lead_to("")
        self._between.cut()

    async def aclose(self) -> None:
        await self._stack.aclose()


@pytest.fixture(params=["unix", "tcp"])
async def home(request: pytest.FixtureRequest, socket_dir: Path) -> AsyncIterator[Home]:
    made = Home(request.param, socket_dir)
    await made.start()
    yield made
    await made.aclose()


@asynccontextmanager
async def joined(home: Home, name: str, settings: BusSettings = BRIEF) -> AsyncIterator[Bus]:
    keys = CLIENT if home._over_tcp else None
    async with Bus.open(home.url, name=name, settings=settings, keys=keys) as bus:
        yield bus


async def names(bus: Bus) -> set[str]:
    try:
        return {agent.name for agent in await bus.agents()}
    except AgentbusError:
        await asyncio.sleep(0)
        return set()


async def until_back(bus: Bus, wanted: set[str]) -> None:
    with anyio.fail_after(10):
        while await names(bus) != wanted:
            pass


async def until_away(bus: Bus) -> None:
    while bus._sender.routes.home is not None:  # noqa: ASYNC110 - nothing tells when
        await asyncio.sleep(0)


class Worker(Echo):
    concurrency = 2


@pytest.mark.promise("back.home", "autogen-reconnect")
async def test_names_and_subscriptions_come_back(home: Home) -> None:
    async with joined(home, "host") as host, joined(home, "asker") as asker:
        await host.spawn(Echo(), name="echo")
        await host.spawn(Worker(), name="jobs", group=True)
        await host.spawn(Worker, name="each", per_key=True)
        async with asker.subscribe("n.>") as messages:
            home.vanish()
            await home.start()
            await until_back(asker, {"echo", "jobs", "each"})
            for number, target in enumerate(("echo", "jobs", "each/one")):
                pong = await asker.request(target, Ping(number=number), returns=Pong)
                assert pong.number == number
            await host.publish("n.1", "back")
            with anyio.fail_after(5):
                assert (await anext(messages)).value == "back"
        with pytest.raises(NameTaken):
            await asker.spawn(Echo(), name="echo")


async def test_what_needs_the_home_ends_while_it_is_away(home: Home) -> None:
    echo = Echo()
    async with joined(home, "host") as host, joined(home, "asker") as asker:
        await host.spawn(echo, name="echo")
        with anyio.fail_after(5):
            answer = asyncio.create_task(asker.agents())
            home.vanish()
            with pytest.raises(PeerLost):
                await answer
            with pytest.raises(PeerLost):
                await asker.request("nobody", Ping(number=1))
            with pytest.raises(PeerLost):
                await asker.publish("n", 1)
            with pytest.raises(PeerLost):
                await asker.spawn(Echo(), name="late")
        await home.start()
        await until_back(asker, {"echo"})
        await asker.spawn(Echo(), name="late")
        with pytest.raises(NoResponder):
            await asker.request("nobody", Ping(number=1))


async def test_a_link_of_two_needs_no_home(socket_dir: Path) -> None:
    echo, home = Echo(), Home("unix", socket_dir)
    await home.start()
    async with joined(home, "host") as host, joined(home, "asker") as asker:
        await host.spawn(echo, name="echo")
        with anyio.fail_after(5):
            answer = asyncio.create_task(asker.request("echo", Hold(), returns=str))
            await echo.held.wait()
            home.vanish()
            await until_away(asker)
            echo.release.set()
            assert await answer == "released"
            assert (await asker.request("echo", Ping(number=1), returns=Pong)).number == 1
    await home.aclose()


async def test_a_home_that_does_not_come_again_is_lost_in_time(home: Home) -> None:
    settings = BusSettings(resume_timeout=0.05, rejoin_timeout=0.3)
    async with joined(home, "asker", settings) as asker, asker.subscribe("n") as messages:
        home.vanish()
        with anyio.fail_after(5):
            assert not await asker.home_lost()
            with pytest.raises(PeerLost):
                await anext(messages)


async def test_a_bus_closes_at_once_while_its_home_is_away(home: Home) -> None:
    async with joined(home, "asker") as asker:
        home.vanish()
        with anyio.fail_after(5):
            await until_away(asker)
        with anyio.fail_after(1):
            await asker.__aexit__(None, None, None)


async def test_agents_are_announced_again(home: Home) -> None:
    async with joined(home, "host") as host, joined(home, "asker") as asker:
        await host.spawn(Echo(), name="echo")
        home.vanish()
        await home.start()
        assert home.bus is not None
        async with home.bus.subscribe(PRESENCE) as presence:
            with anyio.fail_after(10):
                if "echo" not in await names(asker):
                    assert (await anext(presence)).value.name == "echo"
