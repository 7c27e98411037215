"""grpc.aio under the load of the suite `stream`: server streaming over a Unix socket, on uvloop.

Tokens are bytes to gRPC, and stay bytes at the reader. `python -m perf.peers.grpc_stream ADDRESS`
is the producing side.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import uvloop

from ..children import announce_and_wait, python_child
from ..tokens import Ask, Producer, Reader
from ..workloads import REQUEST_TIMEOUT_S
from .grpc_server import grpc_server

__all__ = ["contend", "serve"]

SERVICE = "perf.Speaker"
METHOD = "speak"


@asynccontextmanager
async def contend() -> AsyncGenerator[Reader, None]:
    """Start the producing side and connect."""
    with TemporaryDirectory(prefix="perf-") as folder:
        address = f"unix:{Path(folder, 'grpc.sock')}"
        async with (
            python_child("grpc's speaker", "perf.peers.grpc_stream", address),
            grpc.aio.insecure_channel(address) as channel,
        ):
            speak = channel.unary_stream(f"/{SERVICE}/{METHOD}")

            @asynccontextmanager
            async def stream(ask: Ask) -> AsyncGenerator[AsyncIterable[bytes], None]:
                call = speak(ask.model_dump_json().encode(), timeout=REQUEST_TIMEOUT_S)
                try:
                    yield call
                finally:
                    call.cancel()

            yield Reader(stream)


async def serve(address: str) -> None:
    """Produce until the parent leaves."""
    producer = Producer()

    async def speak(request: bytes, context: grpc.aio.ServicerContext) -> None:
        # Writing costs less than yielding from the handler.
        async for token in producer.tokens(Ask.model_validate_json(request)):
            await context.write(token.encode())

    handler = grpc.unary_stream_rpc_method_handler(speak)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(producer.run())
        async with grpc_server(address, SERVICE, METHOD, handler):
            await announce_and_wait()
        running.cancel()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
