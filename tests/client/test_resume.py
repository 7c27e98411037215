"""Connections break; links, and what is under way on them, go on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest

from agentbus import Agent, Bus, BusSettings, Call, Limits, handler
from agentbus.daemon import start_broker
from agentbus.errors import DeadlineExceeded, NameTaken, PeerLost
from agentbus.transport import zmq_link
from agentbus.transport.lasting import LastingLink

from .agents import Count, Echo, Hold, Ping, Pong
from .conftest import until
from .faults import Between
from .tcp_keys import CLIENT, LISTENING, LOOPBACK

pytestmark = pytest.mark.anyio


class World(NamedTuple):
    """A bus that hosts agents, one that asks them, and what stands between all processes."""

    host: Bus
    asker: Bus
    between: Between


@pytest.fixture(params=["unix", "tcp", "relayed"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def world(
    way: str, folder: Path, settings: BusSettings | None = None
) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        over_tcp = way != "unix"
        path = f"{folder}/run/bus.sock"
        first = await enter(
            Bus.open(
                listen=LOOPBACK if over_tcp else path,
                name="first",
                settings=settings,
                keys=LISTENING if over_tcp else None,
            )
        )
        between = await enter(Between.open(first.listens_at, f"{folder}/between"))
        keys = CLIENT if over_tcp else None

        async def join(name: str) -> Bus:
            return await enter(Bus.open(between.url, name=name, settings=settings, keys=keys))

        host = first
        if way == "relayed":
            await start_broker(first)
            host = await join("host")
        yield World(host, await join("asker"), between)


@pytest.mark.promise("back.link", "autogen-reconnect")
async def test_a_request_under_way_is_answered(way: str, socket_dir: Path) -> None:
    echo = Echo()
    async with world(way, socket_dir) as (host, asker, between):
        await host.spawn(echo, name="echo")
        with anyio.fail_after(5):
            answer = asyncio.create_task(asker.request("echo", Hold(), returns=str))
            await echo.held.wait()
            before = between.accepted
            between.cut()
            echo.release.set()
            assert await answer == "released"
        assert between.accepted > before
        assert not echo.cancelled.is_set()
        assert (await asker.request("echo", Ping(number=1), returns=Pong)).number == 1


@pytest.mark.promise("back.link")
async def test_a_stream_goes_on_at_the_part_where_it_broke(way: str, socket_dir: Path) -> None:
    async with world(way, socket_dir) as (host, asker, between):
        await host.spawn(Echo(), name="echo")
        seen, before = [], between.accepted
        with anyio.fail_after(30):
            async with asker.stream("echo", Count(upto=3000)) as parts:
                async for part in parts:
                    seen.append(part)
                    if part % 500 == 250:
                        between.cut()
        assert seen == list(range(3000))
        assert between.accepted >= before + 4


class Adder(Agent):
    @handler
    async def add(self, start: int, call: Call) -> AsyncIterator[int]:
        """Tell the sum so far of what is fed, after each number."""
        async for number in call.feed(int):
            start += number
            yield start


async def test_a_feed_goes_on_at_the_part_where_it_broke(way: str, socket_dir: Path) -> None:
    async with world(way, socket_dir) as (host, asker, between):
        await host.spawn(Adder(), name="adder")
        sums, fed = [], list(range(1, 1001))
        with anyio.fail_after(30):
            async with (
                asker.stream("adder", 0) as parts,
                anyio.create_task_group() as group,
            ):

                async def feed() -> None:
                    for number in fed:
                        await parts.send(number)
                    parts.finish()

                group.start_soon(feed)
                async for total in parts:
                    sums.append(total)
                    if len(sums) % 200 == 100:
                        between.cut()
        assert sums == [n * (n + 1) // 2 for n in fed]


@pytest.mark.promise("a2a-832")
async def test_a_subscriber_whose_connection_broke_misses_nothing(
    way: str, socket_dir: Path
) -> None:
    async with world(way, socket_dir) as (host, asker, between):
        seen: list[object] = []
        with anyio.fail_after(10):
            async with asker.subscribe("n") as messages:
                for number in range(50):
                    if number % 10 == 5:
                        between.cut()
                    await host.publish("n", number)
                while len(seen) < 50:
                    seen.append((await anext(messages)).value)
        assert seen == list(range(50))


class Summer(Agent):
    @handler
    async def total(self, data: memoryview, call: Call) -> int:
        return sum(data)


async def test_payloads_in_shared_memory_come_once(socket_dir: Path) -> None:
    """Also those that were placed and announced to nobody, and their memory is free again."""
    async with world("unix", socket_dir) as (host, asker, between):
        await host.spawn(Summer(), name="summer")
        data = memoryview(bytes([1]) * 300_000)
        with anyio.fail_after(20):
            for turn in range(12):
                between.left = 40 + 20 * turn
                assert await asker.request("summer", data, returns=int) == 300_000
            (peer,) = asker._sender.peers
            assert peer.link.bytes_sent < 100_000
            while peer.link.shares_memory:
                await asker.request("summer", data[:1], returns=int)


class Handing(Agent):
    def __init__(self, between: Between) -> None:
        self.between = between

    @handler
    async def give(self, text: str, call: Call) -> str:
        self.between.cut()
        await call.handoff("taker", text)
        self.between.cut()
        return "never"


class Taker(Agent):
    @handler
    async def take(self, text: str, call: Call) -> str:
        return text.upper()


async def test_a_hand_over_goes_on(way: str, socket_dir: Path) -> None:
    async with world(way, socket_dir) as (host, asker, between):
        await host.spawn(Handing(between), name="giver")
        await host.spawn(Taker(), name="taker")
        with anyio.fail_after(20):
            for turn in range(5):
                assert await asker.request("giver", f"x{turn}", returns=str) == f"X{turn}"


async def test_a_cut_at_any_byte(socket_dir: Path) -> None:
    """Of a request and its reply, whichever byte is the last that passes."""
    echo = Echo()
    async with world("unix", socket_dir) as (host, asker, between):
        await host.spawn(echo, name="echo")
        await asker.request("echo", Ping(number=0), returns=Pong)
        (peer,) = asker._sender.peers
        before = peer.link.bytes_sent + peer.link.bytes_received
        await asker.request("echo", Ping(number=1), returns=Pong)
        size = peer.link.bytes_sent + peer.link.bytes_received - before
        with anyio.fail_after(60):
            for offset in range(1, size + 1):
                between.left = offset
                pong = await asker.request("echo", Ping(number=offset + 1), returns=Pong)
                assert pong.number == offset + 1
        assert echo.seen == list(range(size + 2))
        assert between.accepted > size // 2


async def test_a_cut_at_any_byte_of_going_on(socket_dir: Path) -> None:
    """The new connection may break in its turn, before the link has it and after."""
    echo = Echo()
    async with world("unix", socket_dir) as (host, asker, between):
        await host.spawn(echo, name="echo")
        with anyio.fail_after(60):
            for offset in range(1, 200):
                between.cut()
                between.left = offset
                pong = await asker.request("echo", Ping(number=offset), returns=Pong)
                assert pong.number == offset
        assert echo.seen == list(range(1, 200))


async def test_a_link_that_never_goes_on_is_lost_in_time(way: str, socket_dir: Path) -> None:
    echo = Echo()
    settings = BusSettings(resume_timeout=0.2, rejoin_timeout=0)
    async with world(way, socket_dir, settings) as (host, asker, between):
        await host.spawn(echo, name="echo")
        with anyio.fail_after(5):
            answer = asyncio.create_task(asker.request("echo", Hold(), returns=str))
            await echo.held.wait()
            between.refuses = True
            between.cut()
            (peer,) = asker._sender.peers
            await until(lambda: peer.link.broken)
            with pytest.raises(PeerLost):  # not sent yet, but nowhere else to send it
                await asker.request("echo", Ping(number=1))
            with pytest.raises(PeerLost):
                await answer
            await echo.cancelled.wait()
            with pytest.raises(PeerLost):
                await asker.request("echo", Ping(number=1))
        assert not asker._sender.routes.home


async def test_without_time_to_resume_a_link_is_lost_at_once(way: str, socket_dir: Path) -> None:
    echo = Echo()
    settings = BusSettings(resume_timeout=0, rejoin_timeout=0)
    async with world(way, socket_dir, settings) as (host, asker, between):
        await host.spawn(echo, name="echo")
        with anyio.fail_after(5):
            answer = asyncio.create_task(asker.request("echo", Hold(), returns=str))
            await echo.held.wait()
            before = between.accepted
            between.cut()
            with pytest.raises(PeerLost):
                await answer
            await echo.cancelled.wait()
        assert between.accepted == before


async def test_deadlines_run_on_while_a_link_is_broken(way: str, socket_dir: Path) -> None:
    """Whoever waits is let go in time, and the handler is stopped when the link goes on."""
    echo = Echo()
    async with world(way, socket_dir) as (host, asker, between):
        await host.spawn(echo, name="echo")
        await asker.request("echo", Ping(number=1))
        with anyio.fail_after(5):
            answer = asyncio.create_task(asker.request("echo", Hold(), returns=str, deadline=0.3))
            await echo.held.wait()
            between.refuses = True
            between.cut()
            with pytest.raises(DeadlineExceeded):
                await answer
            with pytest.raises(DeadlineExceeded):
                await asker.request("echo", Ping(number=2), deadline=0.05)
            between.refuses = False
            await echo.cancelled.wait()
            assert (await asker.request("echo", Ping(number=3), returns=Pong)).number == 3
        assert echo.seen == [1, 3]


async def test_a_bus_closes_at_once_while_a_link_is_broken(way: str, socket_dir: Path) -> None:
    async with world(way, socket_dir) as (host, _, between):
        await host.spawn(Echo(), name="echo")
        keys = CLIENT if way != "unix" else None
        with anyio.fail_after(2):
            async with Bus.open(between.url, name="third", keys=keys) as third:
                await third.request("echo", Ping(number=1))
                async with third.subscribe("n"):
                    between.refuses = True
                    between.cut()
                    (peer,) = third._sender.peers
                    await until(lambda: peer.link.broken)
        between.refuses = False


async def test_what_is_sent_into_a_broken_link_is_bounded(socket_dir: Path) -> None:
    settings = BusSettings(limits=Limits(write_buffer=100_000))
    async with world("unix", socket_dir, settings) as (host, asker, between):
        seen: list[object] = []
        async with host.subscribe("n") as messages:
            between.refuses = True
            between.cut()
            (peer,) = asker._sender.peers
            with anyio.fail_after(5):
                await until(lambda: peer.link.broken)
                for _ in range(200):
                    await asker.publish("n", "x" * 1000)
                assert 0 < asker.report().dropped < 200
                between.refuses = False
                while len(seen) + asker.report().dropped < 200:
                    seen.append(await anext(messages))


@pytest.mark.parametrize("direction", [True, False])
async def test_a_connection_that_is_silent_in_one_direction_is_made_anew(
    direction: bool, socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over tcp, where nothing else may tell."""
    monkeypatch.setattr(zmq_link, "HEARTBEAT", 0.1)
    echo = Echo()
    async with world("tcp", socket_dir) as (host, asker, between):
        await host.spawn(echo, name="echo")
        await asker.request("echo", Ping(number=1))
        before = between.accepted
        with anyio.fail_after(20):
            between.stalled = {direction}
            answer = asyncio.create_task(asker.request("echo", Ping(number=2), returns=Pong))
            links = [peer.link for bus in (asker, host) for peer in bus._sender.peers]
            await until(lambda: any(link.broken for link in links))
            between.stalled.clear()
            assert (await answer).number == 2
        assert between.accepted > before
        assert echo.seen == [1, 2]


class Journal(Agent):
    """Notes what it handles, and answers at once or in parts."""

    concurrency = 1

    def __init__(self) -> None:
        self.handled: dict[str, list[int]] = {}

    @handler
    async def note(self, ping: Ping, call: Call) -> Pong:
        self.handled.setdefault(ping.text, []).append(ping.number)
        return Pong(number=ping.number, by=self.name)

    @handler
    async def count(self, count: Count, call: Call) -> AsyncIterator[int]:
        for number in range(count.upto):
            yield number


async def test_a_process_out_of_reach_does_not_keep_its_names(socket_dir: Path) -> None:
    """Whether it is dead nobody knows: who asks for the name gets it, and the link is over."""
    patient = BusSettings(resume_timeout=60)
    async with world("relayed", socket_dir, patient) as (host, asker, between):
        await host.spawn(Echo(), name="echo")
        async with Bus.open(between.target, name="other", keys=CLIENT) as other:
            with pytest.raises(NameTaken):
                await other.spawn(Echo(), name="echo")
            between.refuses = True
            between.cut()
            with anyio.fail_after(10):
                while True:  # until the broker has noticed
                    with contextlib.suppress(NameTaken):
                        await other.spawn(Echo(), name="echo")
                        break
                between.refuses = False
                pong = await asker.request("echo", Ping(number=1), returns=Pong)
                assert pong.number == 1
                assert [agent.peer for agent in await asker.agents()] == [other.name]


async def test_a_new_link_takes_the_place_of_one_that_is_broken(socket_dir: Path) -> None:
    """A process may give a link up before its peer does."""
    async with world("relayed", socket_dir, BusSettings(resume_timeout=60)) as (*buses, between):
        host, asker = buses
        echo = Echo()
        await host.spawn(echo, name="echo")
        (peer,) = host._sender.peers
        between.refuses = True
        between.cut()
        with anyio.fail_after(10):
            await until(lambda: peer.link.broken)
            assert isinstance(peer.link, LastingLink)
            peer.link.give_up()
            between.refuses = False
            await until(lambda: host._sender.routes.home not in (None, peer))
            pong = await asker.request("echo", Ping(number=1), returns=Pong)
        assert pong.number == 1


async def load(asker: Bus, stop: anyio.Event, asked: dict[str, int]) -> None:
    """Ask without pause in two lanes, and read streams, until told to stop."""

    async def ask(lane: str) -> None:
        while not stop.is_set():
            asked[lane] += 1
            ping = Ping(number=asked[lane], text=lane)
            assert (await asker.request("journal", ping, returns=Pong)).number == ping.number

    async def read() -> None:
        while not stop.is_set():
            async with asker.stream("journal", Count(upto=300)) as parts:
                assert [part async for part in parts] == list(range(300))

    async with anyio.create_task_group() as group:
        group.start_soon(ask, "a")
        group.start_soon(ask, "b")
        group.start_soon(read)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


FILES_OF_A_LOOP = 2
"""What the loop itself opens once, for its threads."""


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
@pytest.mark.promise("back.link", "once.delivery", "order.lane", "ends.left-nothing")
async def test_many_cuts_at_random(seed: int, way: str, socket_dir: Path) -> None:
    """50 cuts for each seed: all requests end, once, in order, and nothing is left."""
    rng, journal = random.Random(seed), Journal()
    tasks, files = len(asyncio.all_tasks()), open_files()
    async with world(way, socket_dir) as (host, asker, between):
        await host.spawn(journal, name="journal")
        stop, asked = anyio.Event(), {"a": 0, "b": 0}
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(load, asker, stop, asked)
                for _ in range(50):
                    goal = asked["a"] + rng.randrange(4)
                    await until(lambda goal=goal: asked["a"] >= goal)  # type: ignore[misc]
                    if rng.random() < 0.5:
                        between.cut()
                    else:
                        between.left = rng.randrange(1, 3000)
                stop.set()
        for lane, count in asked.items():
            assert journal.handled[lane] == list(range(1, count + 1))
        for peer in (*host._sender.peers, *asker._sender.peers):
            assert not peer.outgoing
            assert not peer.incoming
    with anyio.fail_after(5):
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
    assert open_files() <= files + FILES_OF_A_LOOP
