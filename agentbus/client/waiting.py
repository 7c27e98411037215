"""Waiting with an end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

__all__ = ["wait_until"]

T = TypeVar("T")


async def wait_until(moment: float, job: Awaitable[T]) -> T:
    """Return what `job` does, by the loop's clock before `moment`.

    Raises:
        TimeoutError: it took longer, and was cancelled.
    """
    async with asyncio.timeout_at(moment):
        return await job
