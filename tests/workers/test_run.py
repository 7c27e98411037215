"""A worker's life within this process: what it starts, and what a failure leaves behind."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from agentbus import Agent, Bus, BusSettings, Call, EngineSettings, handler
from agentbus.daemon import start_broker
from agentbus.errors import ModelNotFound, NameTaken, NoResponder, UnknownEngine
from agentbus.workers import Target, parse_target, run_worker

from ..system.agents import Adder, Speaker, Sum

pytestmark = pytest.mark.anyio

ADDER = parse_target("adder=tests.system.agents:Adder")
SPEAKER = parse_target("speaker=tests.system.agents:Speaker")


class Stillborn(Agent):
    """You do not come to life."""

    async def started(self) -> None:
        raise OSError("no such device")

    @handler
    async def ask(self, text: str, call: Call) -> str:
        return text


async def work(url: str, targets: list[Target], serve: list[str], bus: Bus) -> list[str]:
    """Run a worker until it has started; returns the names on the bus while it ran."""
    names: list[str] = []

    stop = anyio.Event()

    @asynccontextmanager
    async def serving(_: Bus, started: list[str]) -> AsyncGenerator[None]:
        names.extend(agent.name for agent in await bus.agents())
        assert sorted(started) == names
        if "speaker" in names:
            assert "I read 2 turns" in await bus.request("speaker", "Speak.", returns=str)
        stop.set()
        yield

    await run_worker(
        url,
        targets,
        name="worker",
        model="fake:words",
        serve=serve,
        engine_settings=EngineSettings(),
        bus_settings=BusSettings(),
        drain_timeout=1.0,
        serving=serving,
        stop=stop,
    )
    return names


async def test_a_worker_serves_and_spawns_until_it_is_told_to_stop(socket_dir: Path) -> None:
    path = f"{socket_dir}/run/bus.sock"
    async with Bus.open(listen=path) as home:
        await start_broker(home)
        async with Bus.open(f"unix://{path}") as bus:
            names = await work(f"unix://{path}", [ADDER, SPEAKER], ["fake:words"], bus)
            assert names[1:] == ["adder", "speaker"]
            assert names[0].startswith("$model.")
            assert await bus.agents() == ()


async def test_what_cannot_start_leaves_nothing(socket_dir: Path) -> None:
    path = f"{socket_dir}/run/bus.sock"
    url = f"unix://{path}"
    async with Bus.open(listen=path) as home:
        await start_broker(home)
        async with Bus.open(url) as bus:
            with pytest.raises(UnknownEngine, match="no_such_kind"):
                await work(url, [ADDER], ["no_such_kind:model"], bus)
            await bus.spawn(Adder, name="taken")
            taken = Target(ADDER.module, ADDER.class_name, "taken")
            with pytest.raises(NameTaken):
                await work(url, [ADDER, taken], [], bus)
            assert [agent.name for agent in await bus.agents()] == ["taken"]
            with pytest.raises(NoResponder):
                await bus.request("adder", Sum(numbers=[]))


async def test_an_agent_that_does_not_come_to_life_leaves_its_name() -> None:
    async with Bus.open() as bus:
        with pytest.raises(OSError, match="no such device"):
            await bus.spawn(Stillborn, name="adder")
        with pytest.raises(NoResponder):
            await bus.request("adder", "anyone?", deadline=5)
        await bus.spawn(Adder, name="adder")
        assert (await bus.request("adder", Sum(numbers=[1]))).total == 1


async def test_a_model_that_nobody_serves_says_how_to_start_one(socket_dir: Path) -> None:
    path = f"{socket_dir}/run/bus.sock"
    async with Bus.open(listen=path) as home:
        await start_broker(home)
        async with Bus.open(f"unix://{path}") as bus:
            await bus.spawn(Speaker, name="speaker", model="fake:words")
            with pytest.raises(ModelNotFound, match="agentbus worker --serve fake:words"):
                await bus.request("speaker", "Speak.")
