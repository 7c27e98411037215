"""Every transport keeps the contract of links."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from agentbus.config import Limits
from agentbus.testing.contracts.transport import HELLO_A, HELLO_B, LinkContract, Recorder
from agentbus.transport import Link, memory_pair

from .helpers import connected, connected_tcp


class TestMemory(LinkContract):
    @asynccontextmanager
    async def connected(
        self, a: Recorder, b: Recorder, limits: Limits, folder: Path
    ) -> AsyncIterator[tuple[Link, Link]]:
        yield memory_pair(a, HELLO_A, b, HELLO_B, limits)


class TestUnix(LinkContract):
    @asynccontextmanager
    async def connected(
        self, a: Recorder, b: Recorder, limits: Limits, folder: Path
    ) -> AsyncIterator[tuple[Link, Link]]:
        async with connected(str(folder / "bus"), a, b, limits) as links:
            yield links


class TestTcp(LinkContract):
    @asynccontextmanager
    async def connected(
        self, a: Recorder, b: Recorder, limits: Limits, folder: Path
    ) -> AsyncIterator[tuple[Link, Link]]:
        async with connected_tcp(a, b, limits) as (link_a, link_b, _):
            yield link_a, link_b
