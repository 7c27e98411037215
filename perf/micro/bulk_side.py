"""agentbus with large arrays: typed, through the mailbox, to an agent in another process.

`python -m perf.micro.bulk_side PATH` hosts the agent that sums.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import uvloop

from agentbus import Agent, Bus, Call, handler

from ..children import announce_and_wait, python_child
from ..workloads import REQUEST_TIMEOUT_S
from .bulk_driver import Bulk, Sender

__all__ = ["Summer", "serve", "unix"]


class Summer(Agent):
    """Reads all that it is sent."""

    @handler
    async def sum(self, array: np.ndarray, call: Call) -> float:
        """Return the sum of the array."""
        return float(array.sum())


@asynccontextmanager
async def unix() -> AsyncGenerator[Sender, None]:
    """Start the process that hosts the agent and connect to it."""
    with TemporaryDirectory(prefix="perf-") as folder:
        path = str(Path(folder, "bus.sock"))
        async with (
            python_child("agentbus's summer", "perf.micro.bulk_side", path),
            Bus.open(f"unix://{path}") as bus,
        ):

            async def send(array: Bulk) -> float:
                return await bus.request("summer", array, returns=float, deadline=REQUEST_TIMEOUT_S)

            yield Sender(lambda array: array, send)


async def serve(path: str) -> None:
    """Host the agent on the socket `path` until the parent leaves."""
    async with Bus.open(listen=path) as bus:
        await bus.spawn(Summer, name="summer")
        await announce_and_wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
