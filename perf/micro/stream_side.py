"""agentbus under the load of the suite `stream`: a handler that yields, a reader over a Unix socket.

`python -m perf.micro.stream_side PATH` hosts the agent.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import uvloop

from agentbus import Agent, Bus, Call, ReplyStream, handler

from ..children import announce_and_wait, python_child
from ..tokens import STREAMS, Ask, Producer, Reader
from ..workloads import REQUEST_TIMEOUT_S

__all__ = ["contend", "serve"]


class Speaker(Agent):
    """Streams tokens."""

    concurrency: ClassVar[int] = STREAMS

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    @handler
    async def speak(self, ask: Ask, call: Call) -> AsyncGenerator[str, None]:
        """Yield what was asked for."""
        async for token in self._producer.tokens(ask):
            yield token


@asynccontextmanager
async def contend() -> AsyncGenerator[Reader, None]:
    """Start the process that hosts the agent and connect to it."""
    with TemporaryDirectory(prefix="perf-") as folder:
        path = str(Path(folder, "bus.sock"))
        async with (
            python_child("agentbus's speaker", "perf.micro.stream_side", path),
            Bus.open(f"unix://{path}") as bus,
        ):

            def stream(ask: Ask) -> ReplyStream[str]:
                return bus.stream("speaker", ask, deadline=REQUEST_TIMEOUT_S)

            yield Reader(stream)


async def serve(path: str) -> None:
    """Host the agent on the socket `path` until the parent leaves."""
    producer = Producer()
    async with Bus.open(listen=path) as bus, asyncio.TaskGroup() as group:
        running = group.create_task(producer.run())
        await bus.spawn(Speaker(producer), name="speaker")
        await announce_and_wait()
        running.cancel()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
