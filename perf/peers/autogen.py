"""autogen-core's SingleThreadedAgentRuntime in one process, on uvloop.

As its documentation tells: a RoutedAgent with a typed message handler, `send_message` to an
AgentId, runtime telemetry off, logging off.
"""

# The peer may not be installed where types are checked; then all of it is Any.
# mypy: allow-subclassing-any, allow-untyped-decorators

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from autogen_core import (
    AgentId,
    MessageContext,
    RoutedAgent,
    SingleThreadedAgentRuntime,
    message_handler,
)

from ..workloads import PING, Contender, Ping, checked_calls

__all__ = ["contend"]


class _Echo(RoutedAgent):
    @message_handler
    async def echo(self, message: Ping, ctx: MessageContext) -> Ping:
        return message


@asynccontextmanager
async def contend() -> AsyncGenerator[Contender, None]:
    """Start a runtime with one echoing agent."""
    logging.disable(logging.CRITICAL)
    os.environ["AUTOGEN_DISABLE_RUNTIME_TRACING"] = "true"
    runtime = SingleThreadedAgentRuntime()
    await _Echo.register(runtime, "echo", lambda: _Echo("answers with what it was sent"))
    runtime.start()
    target = AgentId("echo", "default")

    async def request() -> object:
        return await runtime.send_message(PING, target)

    try:
        yield await checked_calls(request)
    finally:
        await runtime.stop()
