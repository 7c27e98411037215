"""grpc.aio with large messages: unary bytes, limits raised, over a Unix socket or loopback TCP.

The sender has the array's bytes ready, and passes them as they are. The receiver sums a numpy view
of what came. `python -m perf.peers.grpc_bulk ADDRESS` is the receiver.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import numpy as np
import uvloop

from ..children import announce_and_wait, python_child
from ..micro.bulk_driver import Sender
from ..workloads import REQUEST_TIMEOUT_S
from .grpc_server import grpc_server

__all__ = ["loopback", "serve", "unix"]

SERVICE = "perf.Bulk"
METHOD = "sum"
OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
_TOTAL = struct.Struct("<d")


@asynccontextmanager
async def unix() -> AsyncGenerator[Sender, None]:
    """Start the receiver on a Unix socket and connect."""
    with TemporaryDirectory(prefix="perf-") as folder:
        async with _connected(f"unix:{Path(folder, 'grpc.sock')}") as sender:
            yield sender


def loopback() -> AbstractAsyncContextManager[Sender]:
    """Start the receiver on loopback and connect."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return _connected(f"127.0.0.1:{port}")


@asynccontextmanager
async def _connected(address: str) -> AsyncGenerator[Sender, None]:
    async with (
        python_child("grpc's summer", "perf.peers.grpc_bulk", address),
        grpc.aio.insecure_channel(address, options=OPTIONS) as channel,
    ):
        method = channel.unary_unary(f"/{SERVICE}/{METHOD}")

        async def send(data: bytes) -> float:
            reply = await method(data, timeout=REQUEST_TIMEOUT_S)
            return float(_TOTAL.unpack(reply)[0])

        yield Sender(lambda array: array.tobytes(), send)


async def _sum(request: bytes, _: grpc.aio.ServicerContext) -> bytes:
    return _TOTAL.pack(np.frombuffer(request, dtype=np.float64).sum())


async def serve(address: str) -> None:
    """Sum what each request brings until the parent leaves."""
    handler = grpc.unary_unary_rpc_method_handler(_sum)
    async with grpc_server(address, SERVICE, METHOD, handler, OPTIONS):
        await announce_and_wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
