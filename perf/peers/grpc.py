"""grpc.aio, unary request and reply over a Unix socket: two processes on uvloop.

Both ends turn the model into JSON and validate what comes in, as pydantic does fastest, since
agentbus's ends are typed too; gRPC itself passes bytes. `python -m perf.peers.grpc ADDRESS` is the
echoing side.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import uvloop

from ..children import announce_and_wait, python_child
from ..workloads import PING, REQUEST_TIMEOUT_S, Contender, Ping, checked_calls
from .grpc_server import grpc_server

__all__ = ["contend", "serve"]

SERVICE = "perf.Echo"
METHOD = "echo"


@asynccontextmanager
async def contend() -> AsyncGenerator[Contender, None]:
    """Start the echoing side and connect, on one channel for all requests."""
    with TemporaryDirectory(prefix="perf-") as folder:
        address = f"unix:{Path(folder, 'grpc.sock')}"
        async with (
            python_child("grpc's echo", "perf.peers.grpc", address),
            grpc.aio.insecure_channel(address) as channel,
        ):
            echo = channel.unary_unary(f"/{SERVICE}/{METHOD}")

            async def request() -> object:
                payload = PING.model_dump_json().encode()
                return Ping.model_validate_json(await echo(payload, timeout=REQUEST_TIMEOUT_S))

            yield await checked_calls(request)


async def _echo(request: bytes, _: grpc.aio.ServicerContext) -> bytes:
    return Ping.model_validate_json(request).model_dump_json().encode()


async def serve(address: str) -> None:
    """Answer each request with what it brought until the parent leaves."""
    handler = grpc.unary_unary_rpc_method_handler(_echo)
    async with grpc_server(address, SERVICE, METHOD, handler):
        await announce_and_wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
