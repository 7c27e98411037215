"""agentbus under load: typed, through the mailbox, with a deadline, as an application uses it.

`python -m perf.micro.agentbus_side PATH` hosts the echoing agent for the case `unix`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from agentbus import Agent, Bus, Call, handler

from ..children import announce_and_wait, python_child
from ..workloads import PING, REQUEST_TIMEOUT_S, Calls, Contender, Ping, checked_calls

__all__ = ["Echo", "inproc", "serve", "unix"]


class Echo(Agent):
    """Answers with what it was sent."""

    @handler
    async def echo(self, ping: Ping, call: Call) -> Ping:
        """Return the message."""
        return ping


async def _calls(bus: Bus) -> Calls:
    async def request() -> object:
        return await bus.request("echo", PING, deadline=REQUEST_TIMEOUT_S)

    return await checked_calls(request)


@asynccontextmanager
async def inproc() -> AsyncGenerator[Contender, None]:
    """Host the agent in this process."""
    async with Bus.open() as bus:
        await bus.spawn(Echo, name="echo")
        yield await _calls(bus)


@asynccontextmanager
async def unix() -> AsyncGenerator[Contender, None]:
    """Start the process that hosts the agent and connect to it."""
    with TemporaryDirectory(prefix="perf-") as folder:
        path = str(Path(folder, "bus.sock"))
        async with (
            python_child("agentbus's echo", "perf.micro.agentbus_side", path),
            Bus.open(f"unix://{path}") as bus,
        ):
            yield await _calls(bus)


async def serve(path: str) -> None:
    """Host the agent on the socket `path` until the parent leaves."""
    async with Bus.open(listen=path) as bus:
        await bus.spawn(Echo, name="echo")
        await announce_and_wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
