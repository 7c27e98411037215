"""A process that ends takes nothing new, and finishes what it has begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus

from agentbus import Bus, BusSettings
from agentbus.errors import Draining, NoResponder, PeerLost

from .agents import Echo, Hold, Ping, Pong
from .test_daemon import broker

pytestmark = pytest.mark.anyio


class Ending:
    """A process with an agent that holds a request, while the process drains."""

    def __init__(self, host: Bus, echo: Echo) -> None:
        self.host = host
        self.echo = echo
        self.answers: list[Any] = []
        self.drained = anyio.Event()

    async def drain(self, seconds: float) -> None:
        await self.host.drain(seconds)
        self.drained.set()

    async def ask(self, asker: Bus) -> None:
        self.answers.append(await asker.request("echo", Hold(), returns=str))


async def test_what_is_under_way_is_finished_and_the_rest_goes_elsewhere(socket_dir: Path) -> None:
    async with broker(socket_dir) as url:
        async with Bus.open(url) as host, Bus.open(url) as asker, Bus.open(url) as other:
            ending = Ending(host, Echo())
            await host.spawn(ending.echo, name="echo")
            with anyio.fail_after(10):
                async with anyio.create_task_group() as group:
                    group.start_soon(ending.ask, asker)
                    await ending.echo.held.wait()
                    group.start_soon(ending.drain, 10)
                    while not host.draining:
                        await anyio.lowlevel.checkpoint()
                    with pytest.raises(NoResponder):
                        await other.request("echo", Ping(number=1))
                    with pytest.raises(Draining, match="'echo'"):
                        await asker.request("echo", Ping(number=1))
                    await other.spawn(Echo(), name="echo")
                    pong = await asker.request("echo", Ping(number=2), returns=Pong)
                    assert pong.number == 2
                    assert not ending.drained.is_set()
                    ending.echo.release.set()
            assert ending.answers == ["released"]
            assert ending.drained.is_set()


async def test_draining_ends_with_its_time(socket_dir: Path) -> None:
    async with broker(socket_dir) as url, Bus.open(url) as host, Bus.open(url) as asker:
        ending = Ending(host, Echo())
        await host.spawn(ending.echo, name="echo")
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(ending.ask, asker)
                await ending.echo.held.wait()
                await ending.drain(0.05)
                assert not ending.answers
                ending.echo.release.set()
    assert ending.answers == ["released"]


async def test_a_home_that_ends_says_so(socket_dir: Path) -> None:
    path = f"{socket_dir}/run/bus.sock"
    closing = anyio.Event()

    async def home(*, task_status: TaskStatus[None]) -> None:
        async with Bus.open(listen=path):
            task_status.started()
            await closing.wait()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            await group.start(home)
            async with Bus.open(f"unix://{path}") as joined:
                closing.set()
                assert await joined.home_lost()


async def test_a_home_that_vanishes_does_not(socket_dir: Path) -> None:
    path = f"{socket_dir}/run/bus.sock"
    settings = BusSettings(rejoin_timeout=0)
    async with (
        Bus.open(listen=path) as home,
        Bus.open(f"unix://{path}", settings=settings) as joined,
    ):
        for peer in home._sender.peers:
            peer.link.abort()
        with anyio.fail_after(5):
            assert not await joined.home_lost()
            with pytest.raises(PeerLost):
                await joined.request("echo", Ping(number=1))
