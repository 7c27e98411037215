"""The ways from one process to an agent in another, over which the client's promises hold alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from agentbus import Agent, Bus, BusSettings
from agentbus.daemon import start_broker

from .tcp_keys import CLIENT, LISTENING, LOOPBACK

WAYS = ("inproc", "unix", "tcp", "relayed")
"""In one process; over a Unix socket; over tcp; and over tcp by way of a broker."""


class Pair:
    """A bus that hosts agents and the bus that asks them; one and the same in process."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.transport = "tcp" if kind == "relayed" else kind
        self._path = str(folder / "run" / "bus.sock")

    @asynccontextmanager
    async def open(self, settings: BusSettings | None = None) -> AsyncIterator[tuple[Bus, Bus]]:
        async with AsyncExitStack() as stack:
            if self.kind == "inproc":
                bus = await stack.enter_async_context(Bus.open(settings=settings))
                yield bus, bus
                return
            over_tcp = self.transport == "tcp"
            first = await stack.enter_async_context(
                Bus.open(
                    listen=LOOPBACK if over_tcp else self._path,
                    name="broker" if self.kind == "relayed" else "host",
                    settings=settings,
                    keys=LISTENING if over_tcp else None,
                )
            )
            url = first.listens_at if over_tcp else f"unix://{self._path}"
            keys = CLIENT if over_tcp else None

            async def join(name: str) -> Bus:
                joined = Bus.open(url, name=name, settings=settings, keys=keys)
                return await stack.enter_async_context(joined)

            if self.kind == "relayed":
                await start_broker(first)
                host = await join("host")
            else:
                host = first
            yield host, await join("asker")

    @asynccontextmanager
    async def with_agent(
        self, agent: Agent, settings: BusSettings | None = None
    ) -> AsyncIterator[Bus]:
        async with self.open(settings) as (host, asker):
            await host.spawn(agent, name="echo")
            yield asker


@pytest.fixture(params=WAYS)
def pair(request: pytest.FixtureRequest, socket_dir: Path) -> Pair:
    return Pair(request.param, socket_dir)


async def until(condition: Callable[[], object]) -> None:
    """Let others run until a condition holds."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(0)
