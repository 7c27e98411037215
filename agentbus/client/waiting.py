"""Waiting with an end, and in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

__all__ = ["alone", "wait_until"]

T = TypeVar("T")


async def wait_until(moment: float, job: Awaitable[T]) -> T:
    """Return what `job` does, by the loop's clock before `moment`.

    Raises:
        TimeoutError: it took longer, and was cancelled.
    """
    async with asyncio.timeout_at(moment):
        return await job


async def alone(lock: anyio.Lock, job: Callable[[], Awaitable[T]]) -> T:
    """Return what `job` does while nobody else holds `lock`."""
    async with lock:
        return await job()
