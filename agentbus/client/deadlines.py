"""One heap for all deadlines of a process, and one timer for the nearest.

A timer for each request costs 10 to 20 µs; a heap entry under one (DESIGN section 5).
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Final

__all__ = ["DeadlineHeap", "DeadlineTimer"]

_SWEEP_EVERY: Final = 64
"""Deadlines added between two looks for forgotten ones that still stand in the heap."""
_PUSH: Final = heapq.heappush


class DeadlineHeap:
    """Deadlines by moment; reads no clock."""

    __slots__ = ("_actions", "_entries", "_last", "expired")

    def __init__(self) -> None:
        self._entries: list[tuple[float, int]] = []
        self._actions: dict[int, Callable[[], None]] = {}
        """What to do, by the number of the deadline; without those that were cancelled."""
        self._last = 0
        self.expired = 0
        """Deadlines that passed."""

    def __len__(self) -> int:
        return len(self._actions)

    def add(self, when: float, action: Callable[[], None]) -> int:
        """Have `expire` call `action` once `when` is reached; returns the deadline's number."""
        number = self._last = self._last + 1
        self._actions[number] = action
        _PUSH(self._entries, (when, number))
        if number % _SWEEP_EVERY == 0:
            self._sweep()
        return number

    def _sweep(self) -> None:
        """Most deadlines never pass: without this, finished requests would pile up in the heap."""
        if len(self._entries) > 2 * len(self._actions):
            self._entries = [entry for entry in self._entries if entry[1] in self._actions]
            heapq.heapify(self._entries)

    def cancel(self, number: int) -> None:
        """Forget a deadline; harmless once it has passed."""
        self._actions.pop(number, None)

    def next(self) -> float | None:
        """Return the nearest moment, or None when there is nothing to wait for."""
        entries = self._entries
        while entries and entries[0][1] not in self._actions:
            heapq.heappop(entries)
        return entries[0][0] if entries else None

    def expire(self, now: float) -> None:
        """Run the action of each deadline that has been reached."""
        while (when := self.next()) is not None and when <= now:
            _, number = heapq.heappop(self._entries)
            self.expired += 1
            self._actions.pop(number)()


class DeadlineTimer:
    """Drives a `DeadlineHeap` from the running event loop's clock."""

    __slots__ = ("_armed_for", "_handle", "_heap", "loop", "time")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._heap = DeadlineHeap()
        self._handle: asyncio.TimerHandle | None = None
        self._armed_for = float("inf")
        self.time = self.loop.time

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def missed(self) -> int:
        """Deadlines that passed so far."""
        return self._heap.expired

    def add(self, when: float, action: Callable[[], None]) -> int:
        """Call `action` at `when`, by the loop's clock, unless the number returned is cancelled."""
        if when < self._armed_for:
            self._arm(when)
        return self._heap.add(when, action)

    def cancel(self, number: int) -> None:
        """Forget a deadline; harmless once it has passed."""
        self._heap.cancel(number)

    def close(self) -> None:
        """Stop the timer."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self, when: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed_for = when
        self._handle = self.loop.call_at(when, self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._armed_for = float("inf")
        self._heap.expire(self.loop.time())
        following = self._heap.next()
        if following is not None and following < self._armed_for:
            self._arm(following)
