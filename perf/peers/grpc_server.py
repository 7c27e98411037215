"""The server that all of gRPC's cases share: one service of one method, without generated code."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

__all__ = ["grpc_server"]


@asynccontextmanager
async def grpc_server(
    address: str,
    service: str,
    method: str,
    handler: Any,
    options: Sequence[tuple[str, int]] = (),
) -> AsyncGenerator[None, None]:
    """Serve `/service/method` at `address` by one of gRPC's method handlers, while the block runs."""
    server = grpc.aio.server(options=list(options))
    served = grpc.method_handlers_generic_handler(service, {method: handler})
    server.add_generic_rpc_handlers((served,))
    server.add_insecure_port(address)
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)
