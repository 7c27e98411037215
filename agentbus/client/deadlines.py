"""One heap for all deadlines of a process, and one timer for the nearest.

A timer for each request costs 10 to 20 µs; a heap entry under one (DESIGN section 5).
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

__all__ = ["Deadline", "DeadlineHeap", "DeadlineTimer"]

_COMPACT_ABOVE = 64


class Deadline:
    """A moment and what to do then. `cancel` forgets it."""

    __slots__ = ("action", "heap", "when")

    def __init__(self, when: float, action: Callable[[], None], heap: DeadlineHeap) -> None:
        self.when = when
        self.action: Callable[[], None] | None = action
        self.heap = heap

    def __lt__(self, other: Deadline) -> bool:
        return self.when < other.when

    def cancel(self) -> None:
        """Forget this deadline; harmless once it has passed."""
        if self.action is not None:
            self.action = None
            self.heap.cancelled += 1


class DeadlineHeap:
    """Deadlines by moment; reads no clock."""

    __slots__ = ("_entries", "cancelled")

    def __init__(self) -> None:
        self._entries: list[Deadline] = []
        self.cancelled = 0

    def __len__(self) -> int:
        return len(self._entries) - self.cancelled

    def add(self, when: float, action: Callable[[], None]) -> Deadline:
        """Have `expire` call `action` once `when` is reached."""
        # Most deadlines never pass: without this, finished requests would pile up in the heap.
        if self.cancelled > _COMPACT_ABOVE and self.cancelled * 2 > len(self._entries):
            self._entries = [entry for entry in self._entries if entry.action is not None]
            heapq.heapify(self._entries)
            self.cancelled = 0
        deadline = Deadline(when, action, self)
        heapq.heappush(self._entries, deadline)
        return deadline

    def next(self) -> float | None:
        """Return the nearest moment, or None when there is nothing to wait for."""
        entries = self._entries
        while entries and entries[0].action is None:
            heapq.heappop(entries)
            self.cancelled -= 1
        return entries[0].when if entries else None

    def expire(self, now: float) -> None:
        """Run the action of each deadline that has been reached."""
        while (when := self.next()) is not None and when <= now:
            entry = heapq.heappop(self._entries)
            action, entry.action = entry.action, None
            if action is not None:
                action()


class DeadlineTimer:
    """Drives a `DeadlineHeap` from the running event loop's clock."""

    __slots__ = ("_armed_for", "_handle", "_heap", "_loop", "time")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._heap = DeadlineHeap()
        self._handle: asyncio.TimerHandle | None = None
        self._armed_for = float("inf")
        self.time = self._loop.time

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, when: float, action: Callable[[], None]) -> Deadline:
        """Call `action` at `when`, by the loop's clock."""
        deadline = self._heap.add(when, action)
        if when < self._armed_for:
            self._arm(when)
        return deadline

    def close(self) -> None:
        """Stop the timer."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self, when: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed_for = when
        self._handle = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._armed_for = float("inf")
        self._heap.expire(self._loop.time())
        following = self._heap.next()
        if following is not None and following < self._armed_for:
            self._arm(following)
