"""agentbus under load: typed, through the mailbox, with a deadline, as an application uses it.

`python -m perf.micro.agentbus_side PATH` hosts the echoing agent for the case `unix`, with
`ab://host:port FOLDER` for `tcp_curve`, with the keys in that folder.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from agentbus import Agent, Bus, Call, Keys, handler
from agentbus.transport.zmq_keys import create_keys, load_keys

from ..children import announce_and_wait, python_child
from ..workloads import PING, REQUEST_TIMEOUT_S, Calls, Contender, Ping, checked_calls

__all__ = ["Echo", "echo_calls", "inproc", "serve", "tcp_curve", "unix"]


class Echo(Agent):
    """Answers with what it was sent."""

    @handler
    async def echo(self, ping: Ping, call: Call) -> Ping:
        """Return the message."""
        return ping


async def echo_calls(bus: Bus) -> Calls:
    """Return the contender that asks the agent `echo` of a bus."""

    async def request() -> object:
        return await bus.request("echo", PING, deadline=REQUEST_TIMEOUT_S)

    return await checked_calls(request)


@asynccontextmanager
async def inproc() -> AsyncGenerator[Contender, None]:
    """Host the agent in this process."""
    async with Bus.open() as bus:
        await bus.spawn(Echo, name="echo")
        yield await echo_calls(bus)


@asynccontextmanager
async def unix() -> AsyncGenerator[Contender, None]:
    """Start the process that hosts the agent and connect to it."""
    with TemporaryDirectory(prefix="perf-") as folder:
        path = str(Path(folder, "bus.sock"))
        async with (
            python_child("agentbus's echo", "perf.micro.agentbus_side", path),
            Bus.open(f"unix://{path}") as bus,
        ):
            yield await echo_calls(bus)


@asynccontextmanager
async def tcp_curve() -> AsyncGenerator[Contender, None]:
    """Start the process that hosts the agent and connect to it over tcp, encrypted."""
    with TemporaryDirectory(prefix="perf-") as name:
        folder = Path(name)
        server = create_keys(folder, "server")
        create_keys(folder, "client")
        keys = load_keys(folder / "client.key_secret", server=server)
        url = f"ab://127.0.0.1:{_free_port()}"
        async with (
            python_child("agentbus's echo", "perf.micro.agentbus_side", url, name),
            Bus.open(url, keys=keys) as bus,
        ):
            yield await echo_calls(bus)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def serve(path: str, folder: str = "") -> None:
    """Host the agent at `path`, a socket or a url, until the parent leaves."""
    keys: Keys | None = None
    if folder:
        keys = load_keys(Path(folder, "server.key_secret"), authorized=Path(folder))
    async with Bus.open(listen=path, keys=keys) as bus:
        await bus.spawn(Echo, name="echo")
        await announce_and_wait()


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
