"""Publish and subscribe, within a process and by way of a daemon."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from pydantic import BaseModel

from agentbus import Bus, BusSettings
from agentbus.daemon import start_broker
from agentbus.errors import ConfigError, InvalidMessage, InvalidName, MailboxFull, PeerLost
from agentbus.messages import Envelope, Kind
from agentbus.routing import PRESENCE, Presence
from agentbus.wire import MAX_BATCH, join_batch

from .agents import Echo, Ping
from .conftest import Pair

pytestmark = pytest.mark.anyio


class Basket(BaseModel):
    eggs: list[int]


class Unknown(BaseModel):
    """No handler takes it, and no subscriber names it."""

    number: int


async def test_wildcards_in_process() -> None:
    async with Bus.open() as bus:
        async with bus.subscribe("news.*") as one, bus.subscribe("news.>") as rest:
            await bus.publish("news.sea", Ping(number=1))
            await bus.publish("news.sea.tides", Ping(number=2))
            await bus.publish("other.sea", Ping(number=3))
            first = await anext(one)
            assert (first.topic, first.value, first.source) == ("news.sea", Ping(number=1), "")
            assert [(await anext(rest)).value.number for _ in range(2)] == [1, 2]
        with pytest.raises(InvalidName):
            bus.subscribe("news..sea")
        with pytest.raises(InvalidName):
            await bus.publish("news.*", Ping(number=1))


@pytest.mark.promise("flow.slow", "a2a-1136")
async def test_a_slow_subscriber_loses_its_oldest_and_harms_nobody() -> None:
    async with Bus.open(settings=BusSettings(subscription=3)) as bus:
        async with bus.subscribe("n") as slow, bus.subscribe("n") as quick:
            for number in range(5):
                await bus.publish("n", number)
                if number < 3:
                    assert (await anext(quick)).value == number
            assert slow.dropped == 2
            assert [(await anext(slow)).value for _ in range(3)] == [2, 3, 4]
            assert quick.dropped == 0


async def test_subscribers_get_their_own_copy() -> None:
    async with Bus.open() as bus, bus.subscribe("n") as one, bus.subscribe("n") as other:
        await bus.publish("n", ["shared?"])
        (await anext(one)).value.append("mine")
        assert (await anext(other)).value == ["shared?"]


async def test_between_processes(socket_dir: Path) -> None:
    path = f"{socket_dir}/run/bus.sock"
    url = f"unix://{path}"
    async with Bus.open(listen=path) as broker:
        await start_broker(broker)
        async with Bus.open(url, name="a") as a, Bus.open(url, name="b") as b:
            await a.spawn(Echo)
            types = (Ping,)
            at_b, at_a = b.subscribe("news.>", types=types), a.subscribe("news.sea", types=types)
            async with at_b, at_a:
                await a.publish("news.sea", Ping(number=1))
                await b.publish("news.land", Ping(number=2))
                with anyio.fail_after(5):
                    assert (await anext(at_a)).value == Ping(number=1)
                    assert [(await anext(at_b)).value.number for _ in range(2)] == [2, 1]
            await a.publish("news.sea", Ping(number=3))
            async with b.subscribe("news.sea", types=types) as again:
                await a.publish("news.sea", Ping(number=4))
                with anyio.fail_after(5):
                    assert (await anext(again)).value.number == 4


async def test_a_subscription_ends_with_its_bus() -> None:
    seen: list[object] = []

    async def read(bus: Bus) -> None:
        async with bus.subscribe("n") as messages:
            subscribed.set()
            seen.extend([message.value async for message in messages])

    subscribed = anyio.Event()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group, Bus.open() as bus:
            group.start_soon(read, bus)
            await subscribed.wait()
            await bus.publish("n", 1)
    assert seen == [1]


async def test_a_subscription_fails_with_the_home_of_its_bus(socket_dir: Path) -> None:
    path = f"{socket_dir}/run/bus.sock"
    async with Bus.open(listen=path, name="home") as home:
        settings = BusSettings(rejoin_timeout=0)
        async with (
            Bus.open(f"unix://{path}", settings=settings) as bus,
            bus.subscribe("n") as messages,
        ):
            await home.publish("n", 1)
            with anyio.fail_after(5):
                assert (await anext(messages)).value == 1
                for peer in home._sender.peers:
                    peer.link.abort()
                with pytest.raises(PeerLost, match="home"):
                    await anext(messages)


async def test_a_delayed_message_comes_later_and_as_it_was() -> None:
    async with Bus.open(settings=BusSettings(delayed=2)) as bus, bus.subscribe("n") as messages:
        said = ["later"]
        await bus.publish("n", said, delay=0.05)
        said.append("changed")
        await bus.publish("n", ["now"])
        with anyio.fail_after(5):
            assert [(await anext(messages)).value for _ in range(2)] == [["now"], ["later"]]
        await bus.publish("n", "a", delay=60)
        await bus.publish("n", "b", delay=60)
        with pytest.raises(MailboxFull):
            await bus.publish("n", "c", delay=60)
        for wrong in (-1, float("inf"), float("nan")):
            with pytest.raises(ConfigError):
                await bus.publish("n", "x", delay=wrong)
        with pytest.raises(InvalidName):
            await bus.publish("n..", "x", delay=1)
    assert len(bus._sender.topics.delayed) == 0


async def test_agents_come_and_go(socket_dir: Path) -> None:
    path = f"{socket_dir}/run/bus.sock"
    url = f"unix://{path}"
    async with Bus.open(listen=path) as broker:
        await start_broker(broker)
        async with (
            Bus.open(url) as watcher,
            watcher.subscribe(PRESENCE, types=(Presence,)) as seen,
        ):
            async with Bus.open(url, name="a") as a:
                await a.spawn(Echo, name="one")
                await a.spawn(Echo(), name="jobs", group=True)
            with anyio.fail_after(5):
                events = [(await anext(seen)).value for _ in range(4)]
    assert [(event.name, event.peer, event.present) for event in events[:2]] == [
        ("one", a.name, True),
        ("jobs", a.name, True),
    ]
    assert {(event.name, event.present) for event in events[2:]} == {
        ("one", False),
        ("jobs", False),
    }


async def test_agents_come_in_one_process() -> None:
    async with Bus.open() as bus, bus.subscribe(PRESENCE) as seen:
        await bus.spawn(Echo, name="one")
        assert (await anext(seen)).value == Presence("one", bus.name, present=True)


async def test_subscribers_in_another_process_get_their_own_copies(pair: Pair) -> None:
    async with pair.open() as (host, asker):
        at_host = [host.subscribe("n", types=[Basket]) for _ in range(2)]
        async with at_host[0] as one, at_host[1] as other:
            for number in range(3):
                await asker.publish("n", Basket(eggs=[number]))
            with anyio.fail_after(5):
                first = [(await anext(one)).value for _ in range(3)]
                for basket in first:
                    basket.eggs.append(7)
                second = [(await anext(other)).value for _ in range(3)]
    assert [basket.eggs for basket in first] == [[0, 7], [1, 7], [2, 7]]
    assert [basket.eggs for basket in second] == [[0], [1], [2]]


async def test_a_value_that_cannot_be_read_is_counted_and_harms_no_other(pair: Pair) -> None:
    if pair.kind == "inproc":
        pytest.skip("in one process values are passed, not read")
    async with pair.open() as (host, asker), host.subscribe("n", types=[Basket]) as messages:
        for number in range(3):
            await asker.publish("n", Unknown(number=number))
        await asker.publish("n", Basket(eggs=[1]))
        with anyio.fail_after(5):
            assert (await anext(messages)).value == Basket(eggs=[1])
        assert host.report().dropped == 3


@pytest.mark.promise("flow.bounded")
@pytest.mark.pure
async def test_patterns_are_counted_as_they_are_held(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who gives up what it does not have has no room for more."""
    monkeypatch.setattr("agentbus.client.topics._MAX_PATTERNS", 3)
    async with Pair("unix", socket_dir).open() as (_, bus):
        for number in range(3):
            await bus._sender.tell_home(f"+t{number}")
        await bus._sender.tell_home("-other")
        with pytest.raises(InvalidMessage, match="3 patterns"):
            await bus._sender.tell_home("+more")
        await bus._sender.tell_home("-t1")
        await bus._sender.tell_home("+more")


@pytest.mark.promise("flow.bounded", "peer.hostile")
async def test_an_envelope_holds_so_many_messages_at_most(socket_dir: Path) -> None:
    async with Pair("unix", socket_dir).open() as (host, bus), host.subscribe("n") as told:
        (home,) = bus._sender.peers
        for count in (MAX_BATCH, MAX_BATCH + 1):
            values = join_batch([b"\x01"] * count)
            home.link.send(Envelope(Kind.PUBLISH, 0, "", "n", "int", payloads=(values,)))
        with anyio.fail_after(5):
            await home.link.drain()
            with pytest.raises(PeerLost):
                await bus.request("nobody", Ping(number=1))
            assert (await anext(told)).value == 1
        assert told.dropped + 1024 == MAX_BATCH
