"""Two ways to reach the same agent: within the process, and over a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from agentbus import Agent, Bus, BusSettings


class Pair:
    """A bus that hosts agents and the bus that asks them; one and the same in process."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self._path = str(folder / "run" / "bus.sock")

    @asynccontextmanager
    async def open(self, settings: BusSettings | None = None) -> AsyncIterator[tuple[Bus, Bus]]:
        async with AsyncExitStack() as stack:
            if self.kind == "inproc":
                bus = await stack.enter_async_context(Bus.open(settings=settings))
                yield bus, bus
                return
            host = await stack.enter_async_context(
                Bus.open(listen=self._path, name="host", settings=settings)
            )
            asker = await stack.enter_async_context(
                Bus.open(f"unix://{self._path}", name="asker", settings=settings)
            )
            yield host, asker

    @asynccontextmanager
    async def with_agent(
        self, agent: Agent, settings: BusSettings | None = None
    ) -> AsyncIterator[Bus]:
        async with self.open(settings) as (host, asker):
            await host.spawn(agent, name="echo")
            yield asker


@pytest.fixture(params=["inproc", "unix"])
def pair(request: pytest.FixtureRequest, socket_dir: Path) -> Pair:
    return Pair(request.param, socket_dir)
