"""One thing to be done soon, for which nobody waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ..errors import AgentbusError

__all__ = ["Job"]

logger = logging.getLogger("agentbus")


class Job:
    """Is run in a task of the process's pool. Implements `Workload`."""

    __slots__ = ("_do", "_what")

    def __init__(self, what: str, do: Callable[[], Awaitable[object]]) -> None:
        self._what = what
        """What is logged if it goes wrong."""
        self._do = do

    async def drain(self, task: asyncio.Task[object]) -> None:
        """Do it."""
        try:
            await self._do()
        except AgentbusError as error:
            logger.info("%s: %s", self._what, error)
