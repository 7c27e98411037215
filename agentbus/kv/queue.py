"""The order in which free runs of cached tokens are evicted."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from .policy import Evictable, EvictionPolicy

__all__ = ["EvictionQueue"]

_Item = TypeVar("_Item", bound=Evictable)
_Entry = tuple[float, int, int, _Item]


class EvictionQueue(Generic[_Item]):
    """Candidates in a policy's order: a heap for each group, in O(groups + log candidates).

    Entries are not removed when a candidate is taken into use again, or changes its group: they
    go stale, are skipped by `pop`, and swept out when they are many.
    """

    _SWEEP = 64
    """Stale entries that are always tolerated."""

    def __init__(self, policy: EvictionPolicy, is_candidate: Callable[[_Item], bool]) -> None:
        self._policy = policy
        self._is_candidate = is_candidate
        self._heaps: dict[Hashable, list[_Entry[_Item]]] = {}
        self._entries = 0
        self._pushed = 0

    def __len__(self) -> int:
        return self._entries

    def push(self, item: _Item) -> None:
        """Add a candidate that has just come free, or has a new group."""
        self._pushed += 1
        self._entries += 1
        heap = self._heaps.setdefault(self._policy.group(item), [])
        heapq.heappush(heap, (self._policy.rank(item), self._pushed, item.last_used, item))

    def pop(self, now: int) -> _Item | None:
        """Remove and return the candidate to evict first, or None if there is none."""
        chosen: tuple[tuple[float, ...], float, int, Hashable] | None = None
        for group in list(self._heaps):
            entry = self._first(group)
            if entry is None:
                continue
            key = (self._policy.worth(entry[3], now), entry[0], entry[1], group)
            if chosen is None or key[:3] < chosen[:3]:
                chosen = key
        if chosen is None:
            return None
        self._entries -= 1
        return heapq.heappop(self._heaps[chosen[3]])[3]

    def sweep(self, items: int) -> None:
        """Drop stale entries if there are far more entries than the `items` that exist."""
        if self._entries <= 2 * items + self._SWEEP:
            return
        for group, heap in list(self._heaps.items()):
            live = [entry for entry in heap if self._is_live(group, entry)]
            heapq.heapify(live)
            self._heaps[group] = live
        self._heaps = {group: heap for group, heap in self._heaps.items() if heap}
        self._entries = sum(map(len, self._heaps.values()))

    def waiting(self) -> Iterable[_Item]:
        """Yield the candidates, in no order, some perhaps twice."""
        for group, heap in self._heaps.items():
            yield from (entry[3] for entry in heap if self._is_live(group, entry))

    def _first(self, group: Hashable) -> _Entry[_Item] | None:
        heap = self._heaps[group]
        while heap:
            if self._is_live(group, heap[0]):
                return heap[0]
            heapq.heappop(heap)
            self._entries -= 1
        del self._heaps[group]
        return None

    def _is_live(self, group: Hashable, entry: _Entry[_Item]) -> bool:
        item = entry[3]
        return (
            item.last_used == entry[2]
            and self._is_candidate(item)
            and self._policy.group(item) == group
        )
