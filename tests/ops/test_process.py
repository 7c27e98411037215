"""What a process tells tools, over a broker and over HTTP."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import orjson
import pytest

from agentbus import Bus
from agentbus.daemon import start_broker
from agentbus.errors import NoResponder
from agentbus.ops import (
    OFF,
    AgentDescription,
    DescribeAgent,
    operate,
    process_agent_name,
    survey,
)

from ..client.agents import Echo, Ping

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def home(folder: Path) -> AsyncGenerator[tuple[str, Bus]]:
    path = f"{folder}/run/bus.sock"
    async with Bus.open(listen=path, name="broker") as bus, operate(bus, OFF):
        await start_broker(bus)
        yield f"unix://{path}", bus


async def test_all_processes_are_found(socket_dir: Path) -> None:
    async with home(socket_dir) as (url, broker), Bus.open(url, name="w") as host:
        await host.spawn(Echo(), name="echo")
        async with operate(host, "127.0.0.1:0") as metrics, Bus.open(url) as tool:
            await tool.request("echo", Ping(number=1))
            assert [agent.name for agent in await tool.agents()] == ["echo"]
            at_broker, at_host = await survey(tool)
            assert (at_broker.name, at_host.name) == (broker.name, host.name)
            assert (at_broker.metrics, at_host.metrics) == ("", metrics)
            assert at_host.pid == os.getpid()
            assert 0 <= at_host.uptime_s < 60
            assert not at_host.draining
            replies = {agent.name: agent.replies for agent in at_host.bus.agents}
            assert replies["echo"] == 1
            assert {link.peer for link in at_host.bus.links} == {broker.name, tool.name}


async def test_an_agent_is_described(socket_dir: Path) -> None:
    async with home(socket_dir) as (url, _), Bus.open(url) as host, Bus.open(url) as tool:
        await host.spawn(Echo(), name="echo")
        async with operate(host, OFF):
            process = process_agent_name(host.name)
            found = await tool.request(process, DescribeAgent("echo"), returns=AgentDescription)
            assert (found.name, found.role) == ("echo", "You repeat what you hear.")
            handlers = {handler.accepts: handler for handler in found.handlers}
            assert set(handlers) == {"Ping", "Count", "Relay", "Boom", "Hold", "Say"}
            assert handlers["Count"].streams
            assert not handlers["Ping"].streams
            schema = orjson.loads(handlers["Ping"].schema)
            assert schema["required"] == ["number"]
            with pytest.raises(NoResponder, match="nobody"):
                await tool.request(process, DescribeAgent("nobody"))


async def page(url: str) -> tuple[bytes, bytes]:
    """Return the status line and the body of a page."""
    address, _, path = url.removeprefix("http://").partition("/")
    host, _, port = address.rpartition(":")
    async with await anyio.connect_tcp(host, int(port)) as stream:
        await stream.send(f"GET /{path} HTTP/1.1\r\n\r\n".encode())
        answer = b"".join([part async for part in stream])
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0], body


async def test_pages() -> None:
    async with Bus.open() as bus:
        await bus.spawn(Echo(), name="echo")
        await bus.request("echo", Ping(number=1))
        with anyio.fail_after(10):
            async with operate(bus, "127.0.0.1:0") as metrics:
                status, body = await page(metrics)
                assert status.endswith(b"200 OK")
                assert b'agentbus_requests_total{agent="echo",outcome="ok"} 1.0' in body
                health = metrics.replace("/metrics", "/healthz")
                assert await page(health) == (b"HTTP/1.1 200 OK", b"ok\n")
                await bus.drain(1)
                status, body = await page(health)
                assert (status[9:12], body) == (b"503", b"draining\n")
