"""Waiting for what another thread or process does."""

from __future__ import annotations

from collections.abc import Callable

import anyio

__all__ = ["until"]


async def until(holds: Callable[[], bool], also: Callable[[], object] = object) -> None:
    """Wait until something holds, doing `also` again and again meanwhile."""
    with anyio.fail_after(20):
        while not holds():
            also()
            await anyio.sleep(0.005)
