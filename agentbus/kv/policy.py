"""Which cached tokens go first when KV blocks run out.

A policy only ranks; it sees no blocks and frees nothing. That leased tokens stay, and that a
prefix outlives what continues it, is the index's business. The shape follows SGLang's eviction
policies: one tiny class each.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

__all__ = ["LRU", "Evictable", "EvictionPolicy", "EvictionQueue"]


class Evictable(Protocol):
    """What a policy may know of a run of cached tokens."""

    @property
    def last_used(self) -> int:
        """When the last lease on it ended, on the index's logical clock."""
        ...

    @property
    def length(self) -> int:
        """How many tokens it holds."""
        ...


class EvictionPolicy(Protocol):
    """Ranks runs of cached tokens for eviction."""

    def rank(self, candidate: Evictable) -> float:
        """Return a candidate's rank; the smallest goes first.

        It is asked once each time a candidate comes free, and must not depend on anything else.
        """
        ...


class LRU:
    """Least recently used first."""

    def rank(self, candidate: Evictable) -> float:
        """Return when the candidate was last used."""
        return candidate.last_used


_Item = TypeVar("_Item", bound=Evictable)


class EvictionQueue(Generic[_Item]):
    """Candidates in a policy's order, in O(log n) each.

    Entries are not removed when a candidate is taken into use again: they go stale, are skipped by
    `pop`, and swept out when they are many.
    """

    _SWEEP = 64
    """Stale entries that are always tolerated."""

    def __init__(self, policy: EvictionPolicy, is_candidate: Callable[[_Item], bool]) -> None:
        self._policy = policy
        self._is_candidate = is_candidate
        self._heap: list[tuple[float, int, int, _Item]] = []
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, item: _Item) -> None:
        """Add a candidate that has just come free."""
        self._pushed += 1
        entry = (self._policy.rank(item), self._pushed, item.last_used, item)
        heapq.heappush(self._heap, entry)

    def pop(self) -> _Item | None:
        """Remove and return the candidate to evict first, or None if there is none."""
        while self._heap:
            _, _, last_used, item = heapq.heappop(self._heap)
            if item.last_used == last_used and self._is_candidate(item):
                return item
        return None

    def sweep(self, items: int) -> None:
        """Drop stale entries if there are far more entries than the `items` that exist."""
        if len(self._heap) > 2 * items + self._SWEEP:
            self._heap = [
                e for e in self._heap if e[2] == e[3].last_used and self._is_candidate(e[3])
            ]
            heapq.heapify(self._heap)

    def waiting(self) -> Iterable[_Item]:
        """Yield the candidates, in no order, some perhaps twice."""
        return (e[3] for e in self._heap if e[2] == e[3].last_used and self._is_candidate(e[3]))
