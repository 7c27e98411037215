"""agentbus under the load of the suite `fanout`: a broker, a publisher, two processes that listen.

`python -m perf.micro.fanout_side broker PATH` and `… subscribers URL PROCESS COUNT` are the others.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from agentbus import Bus, Subscription
from agentbus.daemon import start_broker

from ..children import announce_and_wait, python_child
from ..fan import REPORTS, TOPIC, Publisher, Report, Subscribers, shares
from ..workloads import Ping

__all__ = ["broker", "contend", "subscribers"]

MODULE = "perf.micro.fanout_side"


@asynccontextmanager
async def contend(count: str) -> AsyncGenerator[Publisher, None]:
    """Start the other processes and join as the publisher."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="perf-"))
        path = str(Path(folder, "bus.sock"))
        url = f"unix://{path}"
        await stack.enter_async_context(python_child("agentbus's broker", MODULE, "broker", path))
        bus = await stack.enter_async_context(Bus.open(url))
        reports = await stack.enter_async_context(bus.subscribe(REPORTS, types=[Report]))
        for process, share in enumerate(shares(int(count))):
            arguments = ("subscribers", url, str(process), str(share))
            await stack.enter_async_context(
                python_child("agentbus's subscribers", MODULE, *arguments)
            )
        publisher = Publisher(int(count), partial(bus.publish, TOPIC))
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(_read_reports(reports, publisher))
            yield publisher
            reading.cancel()


async def _read_reports(reports: Subscription, publisher: Publisher) -> None:
    async for report in reports:
        publisher.reported(report.value)


async def broker(path: str) -> None:
    """Be the broker until the parent leaves."""
    async with Bus.open(listen=path) as bus:
        await start_broker(bus)
        await announce_and_wait()


async def subscribers(url: str, process: str, count: str) -> None:
    """Subscribe `count` times until the parent leaves."""
    state = Subscribers(int(process), int(count))
    async with Bus.open(url) as bus, AsyncExitStack() as stack:
        entered = [
            await stack.enter_async_context(bus.subscribe(TOPIC, types=[Ping]))
            for _ in range(int(count))
        ]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_listen(bus, state, number, messages))
                for number, messages in enumerate(entered)
            ]
            await announce_and_wait()
            for task in tasks:
                task.cancel()


async def _listen(bus: Bus, state: Subscribers, number: int, messages: Subscription) -> None:
    async for message in messages:
        report = state.take(number, message.value)
        if report is not None:
            await bus.publish(REPORTS, report)


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    uvloop.run(broker(*arguments) if role == "broker" else subscribers(*arguments))
