"""What is to happen later: a bounded number of actions, forgotten when the bus closes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

__all__ = ["Delayed"]


class Delayed:
    """Actions that wait for their time."""

    __slots__ = ("_handles", "_limit", "_loop", "_numbers")

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self._loop = loop
        self._limit = limit
        self._handles: dict[int, asyncio.TimerHandle] = {}
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._handles)

    def after(self, seconds: float, action: Callable[[], None]) -> bool:
        """Run `action` in so many seconds; returns False if too many wait already."""
        if len(self._handles) >= self._limit:
            return False
        number = next(self._numbers)

        def due() -> None:
            del self._handles[number]
            action()

        self._handles[number] = self._loop.call_later(seconds, due)
        return True

    def close(self) -> None:
        """Forget all."""
        for handle in self._handles.values():
            handle.cancel()
        self._handles.clear()
