"""Links between workers: made when needed, capped, closed when idle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from agentbus import Bus, BusSettings
from agentbus.client.direct import CLOSE
from agentbus.daemon import start_broker
from agentbus.transport.link import StreamLink

from .agents import Count, Echo, Hold, Ping, Pong
from .conftest import until

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def apart(folder: Path, hosts: int, settings: BusSettings) -> AsyncIterator[list[Bus]]:
    """A broker, hosts with an agent each (`echo-0` and so on), and at last who asks."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        path = f"{folder}/run/bus.sock"
        await start_broker(await enter(Bus.open(listen=path, name="broker")))
        buses = []
        for number in range(hosts):
            host = await enter(Bus.open(f"unix://{path}", name=f"host-{number}"))
            await host.spawn(Echo(), name=f"echo-{number}")
            buses.append(host)
        asker = await enter(Bus.open(f"unix://{path}", name="asker", settings=settings))
        yield [*buses, asker]


def linked(bus: Bus) -> set[str]:
    """Name the processes that a bus has links to, without their random ends."""
    return {peer.name.rpartition("-")[0] for peer in bus._sender.peers}


async def ask(bus: Bus, host: int, number: int = 1) -> str:
    reply = await bus.call(f"echo-{host}", Ping(number=number), returns=Pong)
    assert reply.value == Pong(number=number, by=f"echo-{host}")
    return reply.account.target


def echo_of(bus: Bus) -> Echo:
    (hosted,) = bus._sender.hosts.agents.values()
    assert isinstance(hosted.agent, Echo)
    return hosted.agent


@pytest.mark.promise("link.cap")
async def test_an_idle_link_is_closed_and_made_again(socket_dir: Path) -> None:
    async with apart(socket_dir, 1, BusSettings(idle_link=0.1)) as (host, asker):
        for number in range(1, 4):
            await ask(asker, 0, number)
            assert linked(asker) == {"broker", "host-0"}
            await until(lambda: linked(asker) == {"broker"})
            await until(lambda: linked(host) == {"broker"})
        assert echo_of(host).seen == [1, 2, 3]


async def test_a_link_with_something_under_way_is_not_idle(socket_dir: Path) -> None:
    async with apart(socket_dir, 1, BusSettings(idle_link=0.05)) as (host, asker):
        answer = asyncio.create_task(asker.request("echo-0", Hold(), returns=str))
        await echo_of(host).held.wait()
        (peer,) = [peer for peer in asker._sender.peers if peer.name == host.name]
        with anyio.move_on_after(0.3):
            await until(lambda: linked(asker) == {"broker"})
        assert linked(asker) == {"broker", "host-0"}
        assert peer.last_id == 1, "nothing was said about closing"
        echo_of(host).release.set()
        assert await answer == "released"
        await until(lambda: linked(asker) == {"broker"})


async def test_who_is_asked_may_use_the_link_in_its_turn(socket_dir: Path) -> None:
    """What it asks over the link of another keeps that open, and refuses its end."""
    async with apart(socket_dir, 1, BusSettings(idle_link=3600)) as (host, asker):
        await asker.spawn(Echo(), name="mine")
        await ask(asker, 0)
        answer = asyncio.create_task(host.request("mine", Hold(), returns=str))
        await echo_of(asker).held.wait()
        node = asker._sender
        (peer,) = [peer for peer in node.peers if peer.name == host.name]
        assert await node.tell(peer, CLOSE, node.program_origin(None), bool) is False
        assert linked(host) == {"broker", "asker"}
        echo_of(asker).release.set()
        assert await answer == "released"
        await ask(asker, 0, 2)
        await node.direct.part(peer)
        assert linked(asker) == {"broker"}
        pong = await host.request("mine", Ping(number=5), returns=Pong)
        assert pong.number == 5


@pytest.mark.promise("link.cap")
async def test_one_more_link_than_may_be_takes_the_place_of_the_longest_unused(
    socket_dir: Path,
) -> None:
    settings = BusSettings(links=2, idle_link=3600)
    async with apart(socket_dir, 4, settings) as (*_, asker):
        await ask(asker, 0)
        await ask(asker, 1)
        asker._sender.direct._look()
        seen = asker._sender.now()
        await until(lambda: asker._sender.now() > seen)  # the loop's clock moves in ms
        await ask(asker, 0)
        await ask(asker, 2)
        assert linked(asker) == {"broker", "host-0", "host-2"}
        for host in (3, 1, 0, 2, 3):
            await ask(asker, host)
            assert len(linked(asker)) == 3, linked(asker)
            assert f"host-{host}" in linked(asker)


@pytest.mark.promise("link.cap")
async def test_while_all_links_are_in_use_the_broker_carries(socket_dir: Path) -> None:
    settings = BusSettings(links=1, idle_link=0.2)
    async with apart(socket_dir, 2, settings) as (first, second, asker):
        answer = asyncio.create_task(asker.request("echo-0", Hold(), returns=str))
        await echo_of(first).held.wait()
        for number in range(1, 20):
            await ask(asker, 1, number)
        async with asker.stream("echo-1", Count(upto=500)) as parts:
            assert [part async for part in parts] == list(range(500))
        assert linked(asker) == {"broker", "host-0"}
        echo_of(first).release.set()
        assert await answer == "released"
        # Once there is room, it gets a link of its own.
        number = 20
        with anyio.fail_after(10):
            while "host-1" not in linked(asker):
                await ask(asker, 1, number)
                number += 1
        assert echo_of(second).seen == list(range(1, number))


async def test_nothing_overtakes_what_is_on_the_longer_way(socket_dir: Path) -> None:
    """An agent gets a link of its own only once nothing more is under way by the broker."""
    settings = BusSettings(links=1, idle_link=3600)
    async with apart(socket_dir, 2, settings) as (first, second, asker):
        answers = [
            asyncio.create_task(asker.request(f"echo-{host}", Hold(), returns=str))
            for host in (0, 1)
        ]
        await echo_of(first).held.wait()
        await echo_of(second).held.wait()
        (carried,) = {"host-0", "host-1"} - linked(asker)
        host = int(carried[-1])
        other, slow = (second, first) if host == 0 else (first, second)
        echo_of(other).release.set()
        await answers[1 - host]
        asker._sender.routes.forget_carried()
        late = asyncio.create_task(ask(asker, host, 7))
        home = asker._sender.routes.home
        assert home is not None
        await until(lambda: len(home.outgoing) == 2)
        assert carried not in linked(asker)
        echo_of(slow).release.set()
        await answers[host]
        await late
        await ask(asker, host, 8)
        assert carried in linked(asker)
        assert echo_of(slow).seen == [7, 8]


@pytest.mark.promise("link.cap", "order.lane", "once.delivery")
async def test_requests_in_order_while_links_come_and_go(socket_dir: Path) -> None:
    settings = BusSettings(links=1, idle_link=0.02)
    async with apart(socket_dir, 3, settings) as (*hosts, asker):
        turns = 60

        async def lane(host: int) -> None:
            for number in range(turns):
                await ask(asker, host, number)
                if number % 7 == host:
                    await until(lambda: f"host-{host}" not in linked(asker))

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for host in range(len(hosts)):
                    group.start_soon(lane, host)
        for bus in hosts:
            assert echo_of(bus).seen == list(range(turns))
        assert not asker.report().failures


async def test_a_link_that_parts_may_be_lost_or_cancelled(socket_dir: Path) -> None:
    async with apart(socket_dir, 1, BusSettings(idle_link=3600)) as (host, asker):
        await ask(asker, 0)
        node = asker._sender
        (peer,) = [peer for peer in node.peers if peer.name == host.name]
        part = asyncio.create_task(node.direct.part(peer))
        await asyncio.sleep(0)
        part.cancel()
        await ask(asker, 0, 2)
        await node.direct.part(peer)
        await ask(asker, 0, 3)
        (peer,) = [peer for peer in node.peers if peer.name == host.name]
        part = asyncio.create_task(node.direct.part(peer))
        await asyncio.sleep(0)
        peer.link.abort()
        await part
        await until(lambda: linked(host) == {"broker"})
        await ask(asker, 0, 4)
        assert echo_of(host).seen == [1, 2, 3, 4]


@pytest.mark.promise("link.cap")
async def test_who_waited_for_a_link_does_not_use_it_while_it_closes(socket_dir: Path) -> None:
    async with apart(socket_dir, 2, BusSettings(links=1)) as (host, _, asker):
        await ask(asker, 0, 1)
        (peer,) = [peer for peer in asker._sender.peers if peer.name.startswith("host-0")]
        link = peer.link
        assert isinstance(link, StreamLink)
        link.pause_writing()
        waiting = asyncio.create_task(ask(asker, 0, 2))
        for _ in range(10):
            await asyncio.sleep(0)
        other = asyncio.create_task(ask(asker, 1, 3))
        await until(lambda: peer.outgoing)  # it is asked whether it may be closed
        link.resume_writing()
        with anyio.fail_after(5):
            await asyncio.gather(waiting, other)
        assert echo_of(host).seen == [1, 2]
