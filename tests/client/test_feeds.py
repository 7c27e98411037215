"""Streams in both directions: what a caller feeds along with its request."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from agentbus import Agent, BusSettings, Call, handler
from agentbus.errors import Closed, HandlerFailed, InvalidMessage

from .agents import Count, Hold, Ping, Say
from .conftest import Pair

pytestmark = pytest.mark.anyio


class Adder(Agent):
    """Answers each number that it is fed with the sum so far."""

    def __init__(self) -> None:
        self.taken = 0

    @handler
    async def add(self, ping: Ping, call: Call) -> AsyncIterator[int]:
        total = ping.number
        async for number in call.feed(int):
            self.taken += 1
            total += number
            yield total

    @handler
    async def count(self, count: Count, call: Call) -> int:
        """Read so many and leave the rest."""
        feed = call.feed(int)
        return sum([await anext(feed) for _ in range(count.upto)])

    @handler
    async def hold(self, hold: Hold, call: Call) -> str:
        """Read nothing."""
        return "read nothing"

    @handler
    async def say(self, say: Say, call: Call) -> None:
        call.feed(int)
        call.feed(int)


async def test_a_conversation_in_one_request(pair: Pair) -> None:
    async with pair.with_agent(Adder()) as bus, bus.stream("echo", Ping(number=10)) as stream:
        for number, total in ((1, 11), (2, 13), (3, 16)):
            await stream.send(number)
            assert await anext(stream) == total
        stream.finish()
        assert [part async for part in stream] == []
        assert stream.reply.value is None


async def test_many_parts_both_ways_at_once(pair: Pair) -> None:
    count = 2000
    async with pair.with_agent(Adder(), BusSettings(stream_parts=16)) as bus:
        async with bus.stream("echo", Ping(number=0)) as stream:

            async def feed() -> None:
                for number in range(count):
                    await stream.send(number)
                stream.finish()

            with anyio.fail_after(20):
                async with anyio.create_task_group() as group:
                    group.start_soon(feed)
                    sums = [part async for part in stream]
    assert sums == [n * (n + 1) // 2 for n in range(count)]


@pytest.mark.promise("flow.credit")
async def test_a_feeder_waits_for_the_handler(pair: Pair) -> None:
    adder = Adder()
    async with pair.with_agent(adder, BusSettings(stream_parts=4)) as bus:
        async with bus.stream("echo", Ping(number=0)) as stream:
            with anyio.move_on_after(0.2) as scope:
                for number in range(1000):
                    await stream.send(number)
            assert scope.cancelled_caught
            # A window fed and read, a window of sums on its way back, and one sum in the hand.
            assert adder.taken <= 12


async def test_a_handler_may_leave_the_rest_or_all(pair: Pair) -> None:
    async with pair.with_agent(Adder()) as bus:
        async with bus.stream("echo", Count(upto=2)) as stream:
            with anyio.fail_after(5), pytest.raises(Closed):
                for number in range(10**6):
                    await stream.send(number)
            assert [part async for part in stream] == []
            assert stream.reply.value == 1
        async with bus.stream("echo", Hold()) as stream:
            with anyio.fail_after(5), pytest.raises(Closed):
                await stream.send(1)
            stream.finish()
            assert [part async for part in stream] == []
            assert stream.reply.value == "read nothing"


async def test_a_request_without_a_stream_feeds_nothing(pair: Pair) -> None:
    async with pair.with_agent(Adder()) as bus, bus.stream("echo", Ping(number=1)) as stream:
        stream.finish()
        assert [part async for part in stream] == []
    async with pair.with_agent(Adder()) as bus:
        with pytest.raises(HandlerFailed, match="StopAsyncIteration"):
            await bus.request("echo", Count(upto=1))


async def test_a_part_of_another_type(pair: Pair) -> None:
    async with pair.with_agent(Adder()) as bus:
        async with bus.stream("echo", Ping(number=1)) as stream:
            await stream.send("one")
            with pytest.raises(InvalidMessage):
                await anext(stream)
        with pytest.raises(Closed, match="second reader"):
            await bus.request("echo", Say(text="twice"))


async def test_after_finish_nothing_is_sent(pair: Pair) -> None:
    async with pair.with_agent(Adder()) as bus, bus.stream("echo", Ping(number=1)) as stream:
        stream.finish()
        stream.finish()
        with pytest.raises(Closed):
            await stream.send(1)
