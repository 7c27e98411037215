"""Handlers run in tasks that all agents of a process share."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from agentbus import Agent, Bus, Call, handler

from .agents import Echo, Hold, Ping

pytestmark = pytest.mark.anyio


async def test_agents_that_have_nothing_to_do_cost_no_task() -> None:
    before = len(asyncio.all_tasks())
    async with Bus.open() as bus:
        for number in range(300):
            await bus.spawn(Echo(), name=f"echo{number}")
            assert (await bus.request(f"echo{number}", Ping(number=number))).number == number
        assert len(asyncio.all_tasks()) <= before + 2
    assert len(asyncio.all_tasks()) == before


async def test_handlers_of_several_agents_run_at_once() -> None:
    """More wait at once than tasks are kept; afterwards few are left."""
    before = len(asyncio.all_tasks())
    agents = [Echo() for _ in range(100)]
    async with Bus.open() as bus:
        async with anyio.create_task_group() as group:
            for number, agent in enumerate(agents):
                await bus.spawn(agent, name=f"echo{number}")
                group.start_soon(bus.request, f"echo{number}", Hold())
            with anyio.fail_after(5):
                for agent in agents:
                    await agent.held.wait()
            for agent in agents:
                agent.release.set()
        assert (await bus.request("echo7", Ping(number=1))).number == 1
        assert len(asyncio.all_tasks()) <= before + 70


class Two(Agent):
    """Handles two messages at once."""

    concurrency = 2

    def __init__(self) -> None:
        self.now = self.most = 0
        self.two = anyio.Event()
        self.go = anyio.Event()

    @handler
    async def hold(self, hold: Hold, call: Call) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == 2:
            self.two.set()
        await self.go.wait()
        self.now -= 1


async def test_concurrency_is_kept() -> None:
    two = Two()
    async with Bus.open() as bus, anyio.create_task_group() as group:
        await bus.spawn(two, name="two")
        for _ in range(10):
            group.start_soon(bus.request, "two", Hold())
        with anyio.fail_after(5):
            await two.two.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        two.go.set()
    assert two.most == 2


async def test_messages_that_come_while_an_agent_starts_wait_for_it() -> None:
    class Slow(Echo):
        async def started(self) -> None:
            self.seen.append(0)
            group.start_soon(bus.request, "slow", Ping(number=1))
            for _ in range(10):
                await asyncio.sleep(0)
            assert self.seen == [0]

    slow = Slow()
    async with Bus.open() as bus, anyio.create_task_group() as group:
        await bus.spawn(slow, name="slow")
    assert slow.seen == [0, 1]
