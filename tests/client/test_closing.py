"""A bus closes within its bound, and leaves nothing, also where its peers say nothing any more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import pytest

from agentbus import Agent, Bus, BusSettings, Call, handler
from agentbus.daemon import start_broker
from agentbus.errors import RequestCancelled
from agentbus.testing import Direction, Fault, FaultKind, fault_proxy

from .agents import Echo, Ping
from .tcp_keys import CLIENT, LISTENING, LOOPBACK

pytestmark = pytest.mark.anyio
HASTY = BusSettings(close_timeout=0.1)


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@pytest.mark.promise("ends.left-nothing")
async def test_a_bus_whose_peer_is_silent_closes(kind: str, socket_dir: Path) -> None:
    """Its socket is gone with it, and not only when the link's own patience ends, after 2 s."""
    over_tcp = kind == "tcp"
    listen = LOOPBACK if over_tcp else f"{socket_dir}/run/bus.sock"
    loop = asyncio.get_running_loop()
    async with Bus.open(listen=listen, keys=LISTENING if over_tcp else None) as home:
        await home.spawn(Echo(), name="echo")
        async with fault_proxy(home.listens_at) as proxy:
            keys = CLIENT if over_tcp else None
            async with Bus.open(proxy.url, keys=keys, settings=HASTY) as bus:
                await bus.request("echo", Ping(number=1))
                for direction in Direction:
                    proxy.inject(Fault(FaultKind.HALF_OPEN, direction))
                began = loop.time()
            with anyio.fail_after(5):
                await proxy.connections[0].near.gone.wait()
            assert loop.time() - began < 1.5


class Leaving(Echo):
    """Takes a moment to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.stopping = anyio.Event()
        self.has_stopped = False

    async def stopped(self) -> None:
        self.stopping.set()
        for _ in range(10):
            await asyncio.sleep(0)
        self.has_stopped = True


@pytest.mark.promise("ends.left-nothing")
async def test_a_task_that_is_cancelled_while_it_closes_its_bus_closes_it(socket_dir: Path) -> None:
    """Also by asyncio's own means, from which anyio's shields do not protect."""
    path, agent = f"{socket_dir}/run/bus.sock", Leaving()

    async def member() -> None:
        async with Bus.open(f"unix://{path}") as bus:
            await bus.spawn(agent, name="leaving")

    async with Bus.open(listen=path) as home:
        task = asyncio.ensure_future(member())
        with anyio.fail_after(5):
            await agent.stopping.wait()
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert agent.has_stopped
        assert home.report().links == ()


@pytest.mark.parametrize("way", ["close", "ask close", "ask ask close"])
async def test_a_handler_may_close_its_bus(way: str) -> None:
    """Whoever asked it is cancelled then, and with that it; the bus is closed all the same."""
    leaving, closed = Leaving(), anyio.Event()

    class Closer(Agent):
        @handler
        async def close(self, way: str, call: Call) -> None:
            first, _, rest = way.partition(" ")
            if first == "ask":
                await call.request(f"closer{len(rest)}", rest)
                return
            try:
                await bus.__aexit__(None, None, None)
            finally:
                closed.set()

    async with Bus.open() as bus:
        await bus.spawn(leaving, name="leaving")
        for rest in ("close", "ask close", "ask ask close"):
            await bus.spawn(Closer(), name=f"closer{len(rest)}")
        asked = bus.request(f"closer{len(way)}", way)
        with anyio.fail_after(5):
            if way == "close":
                await asked
            else:
                with pytest.raises(RequestCancelled):
                    await asked
            await closed.wait()
        assert leaving.has_stopped


@pytest.mark.parametrize("per_key", [False, True])
async def test_a_name_is_free_again_where_its_spawning_was_cancelled(
    socket_dir: Path, per_key: bool
) -> None:
    """At any moment, also when the broker has it already."""
    path, turns = f"{socket_dir}/run/bus.sock", 0
    async with Bus.open(listen=path) as broker:
        await start_broker(broker)
        async with Bus.open(f"unix://{path}") as one, Bus.open(f"unix://{path}") as other:
            await one.spawn(Echo, name="first")
            while True:
                spawning = asyncio.ensure_future(one.spawn(Echo, name="echo", per_key=per_key))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if spawning.done():
                    break
                spawning.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await spawning
                assert "echo" not in {agent.name for agent in await other.agents()}
                turns += 1
            assert "echo" in {agent.name for agent in await other.agents()}
