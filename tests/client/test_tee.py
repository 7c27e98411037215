"""Several readers of one stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from agentbus import Agent, BusSettings, Call, handler
from agentbus.errors import HandlerFailed, StreamOverflow

from .agents import Count, Echo
from .conftest import Pair

pytestmark = pytest.mark.anyio


async def collect(reader: AsyncIterator[Any], into: list[Any]) -> None:
    async for part in reader:
        into.append(part)  # noqa: PERF401 - keeps what came before an error


async def test_each_reader_gets_every_part(pair: Pair) -> None:
    async with pair.with_agent(Echo(), BusSettings(stream_parts=4)) as bus:
        async with bus.stream("echo", Count(upto=300)) as stream:
            seen: list[list[int]] = [[], [], []]
            async with anyio.create_task_group() as group:
                for reader, into in zip(stream.tee(3), seen, strict=True):
                    group.start_soon(collect, reader, into)
            assert seen == [list(range(300))] * 3
            assert stream.reply.value is None


@pytest.mark.promise("flow.slow")
async def test_a_slow_reader_harms_itself_only(pair: Pair) -> None:
    async with pair.with_agent(Echo()) as bus:
        async with bus.stream("echo", Count(upto=100)) as stream:
            quick, slow = stream.tee(2, limit=10)
            assert [part async for part in quick] == list(range(100))
            late: list[int] = []
            with pytest.raises(StreamOverflow, match="10 parts"):
                await collect(slow, late)
            assert late == list(range(10))


async def test_a_reader_that_stops_harms_nobody(pair: Pair) -> None:
    async with pair.with_agent(Echo()) as bus:
        async with bus.stream("echo", Count(upto=50)) as stream:
            one, other = stream.tee(2)
            first = [await anext(one)]
            with anyio.CancelScope() as scope:
                scope.cancel()
                first.append(await anext(one))  # not cancelled if the part had come already
            assert [part async for part in other] == list(range(50))
            assert first + [part async for part in one] == list(range(50))


async def test_all_readers_hear_of_an_error(pair: Pair) -> None:
    class Breaks(Agent):
        @handler
        async def count(self, count: Count, call: Call) -> AsyncIterator[int]:
            yield 0
            raise ValueError("the end")

    async with pair.with_agent(Breaks()) as bus:
        async with bus.stream("echo", Count(upto=5)) as stream:
            for reader in stream.tee(2):
                seen: list[int] = []
                with pytest.raises(HandlerFailed, match="the end"):
                    await collect(reader, seen)
                assert seen == [0]
