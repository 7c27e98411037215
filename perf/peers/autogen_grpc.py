"""autogen-ext's distributed runtime: a host process and two worker processes, all on uvloop.

As its documentation tells: a GrpcWorkerAgentRuntimeHost, a GrpcWorkerAgentRuntime on each side, a
RoutedAgent with a typed message handler, `send_message` to an AgentId; telemetry and logging off.
`python -m perf.peers.autogen_grpc host` and `… worker ADDRESS` are the other two processes.
"""

# The peer may not be installed where types are checked; then all of it is Any.
# mypy: allow-subclassing-any, allow-untyped-decorators

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvloop
from autogen_core import (
    AgentId,
    MessageContext,
    RoutedAgent,
    message_handler,
    try_get_known_serializers_for_type,
)
from autogen_ext.runtimes.grpc import GrpcWorkerAgentRuntime, GrpcWorkerAgentRuntimeHost

from ..children import announce_and_wait, python_child
from ..workloads import PING, Contender, Ping, checked_calls

__all__ = ["contend", "host", "worker"]

MODULE = "perf.peers.autogen_grpc"


class _Echo(RoutedAgent):
    @message_handler
    async def echo(self, message: Ping, ctx: MessageContext) -> Ping:
        return message


def _quiet() -> None:
    logging.disable(logging.CRITICAL)
    os.environ["AUTOGEN_DISABLE_RUNTIME_TRACING"] = "true"


@asynccontextmanager
async def _runtime(address: str) -> AsyncGenerator[GrpcWorkerAgentRuntime, None]:
    _quiet()
    runtime = GrpcWorkerAgentRuntime(host_address=address)
    runtime.add_message_serializer(try_get_known_serializers_for_type(Ping))
    await runtime.start()
    try:
        yield runtime
    finally:
        await runtime.stop()


@asynccontextmanager
async def contend() -> AsyncGenerator[Contender, None]:
    """Start the host and the worker that echoes, and join as a second worker."""
    # The host takes an address and does not tell which port it got.
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    target = AgentId("echo", "default")
    async with (
        python_child("autogen_grpc's host", MODULE, "host", address),
        python_child("autogen_grpc's worker", MODULE, "worker", address),
        _runtime(address) as runtime,
    ):

        async def request() -> object:
            return await runtime.send_message(PING, target)

        yield await checked_calls(request)


async def host(address: str) -> None:
    """Route messages until the parent leaves."""
    _quiet()
    routes = GrpcWorkerAgentRuntimeHost(address=address)
    routes.start()
    await announce_and_wait()
    await routes.stop(grace=0)


async def worker(address: str) -> None:
    """Host the echoing agent until the parent leaves."""
    async with _runtime(address) as runtime:
        await _Echo.register(runtime, "echo", lambda: _Echo("answers with what it was sent"))
        await announce_and_wait()


if __name__ == "__main__":
    uvloop.run({"host": host, "worker": worker}[sys.argv[1]](sys.argv[2]))
