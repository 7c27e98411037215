"""nats-py under the load of the suite `fanout`: callbacks, and as many processes as agentbus has.

`python -m perf.peers.nats_fanout URL PROCESS COUNT` is a process of subscribers.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg

from ..children import announce_and_wait, python_child
from ..fan import REPORTS, TOPIC, Publisher, Report, Subscribers, shares
from ..workloads import Ping
from .nats import nats_server

__all__ = ["contend", "subscribers"]


@asynccontextmanager
async def contend(count: str) -> AsyncGenerator[Publisher, None]:
    """Start the server and the subscribers, and connect as the publisher."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(nats_server())
        client = await nats.connect(url)
        stack.push_async_callback(client.close)

        async def publish(ping: Ping) -> None:
            await client.publish(TOPIC, ping.model_dump_json().encode())

        publisher = Publisher(int(count), publish)

        async def take(message: Msg) -> None:
            publisher.reported(Report.model_validate_json(message.data))

        await client.subscribe(REPORTS, cb=take)
        await client.flush()
        for process, share in enumerate(shares(int(count))):
            arguments = ("perf.peers.nats_fanout", url, str(process), str(share))
            await stack.enter_async_context(python_child("nats's subscribers", *arguments))
        yield publisher


async def subscribers(url: str, process: str, count: str) -> None:
    """Subscribe `count` times until the parent leaves."""
    client = await nats.connect(url)
    state = Subscribers(int(process), int(count))
    for number in range(int(count)):
        await client.subscribe(TOPIC, cb=_taker(client, state, number))
    await client.flush()
    await announce_and_wait()
    await client.close()


def _taker(client: Client, state: Subscribers, number: int) -> Callable[[Msg], Awaitable[None]]:
    async def take(message: Msg) -> None:
        report = state.take(number, Ping.model_validate_json(message.data))
        if report is not None:
            await client.publish(REPORTS, report.model_dump_json().encode())

    return take


if __name__ == "__main__":
    uvloop.run(subscribers(*sys.argv[1:]))
