"""The order of eviction: heaps by group, entries that go stale."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from agentbus.kv import LRU, Evictable, Step
from agentbus.kv.queue import EvictionQueue


@dataclass(eq=False)
class Item:
    last_used: int
    waits: bool = True
    length: int = 1
    end: int = 1
    step: Step = Step.UNKNOWN
    halvings: int = 0


class TurnsRound(LRU):
    """Of two groups, one goes first before the time 100, the other from then on."""

    def group(self, candidate: Evictable) -> Hashable:
        return candidate.halvings

    def worth(self, candidate: Evictable, now: int) -> tuple[float, ...]:
        return (candidate.halvings if now < 100 else -candidate.halvings,)


def queue_of(policy: LRU, *items: Item) -> EvictionQueue[Item]:
    queue: EvictionQueue[Item] = EvictionQueue(policy, lambda item: item.waits)
    for item in items:
        queue.push(item)
    return queue


def test_stale_entries_are_skipped_and_swept() -> None:
    items = [Item(3), Item(1), Item(2)]
    queue = queue_of(LRU(), *items)
    items[1].last_used = 9
    items[2].waits = False
    assert queue.pop(9) is items[0]
    assert queue.pop(9) is None
    for clock in range(1000):
        items[0].last_used = clock
        queue.push(items[0])
        queue.sweep(items=1)
    assert len(queue) < 100
    assert queue.pop(9) is items[0]


def test_groups_are_compared_anew_each_time_and_keep_their_order_within() -> None:
    old, new, other = Item(1), Item(5), Item(3, halvings=1)
    assert queue_of(TurnsRound(), new, other, old).pop(now=99) is old
    queue = queue_of(TurnsRound(), new, other, old)
    assert [queue.pop(now=100) for _ in range(4)] == [other, old, new, None]
    assert len(queue) == 0


def test_who_changes_its_group_waits_in_the_new_one_only() -> None:
    first, second = Item(1), Item(2)
    queue = queue_of(TurnsRound(), first, second)
    first.halvings = 1
    assert list(queue.waiting()) == [second]
    queue.push(first)
    assert queue.pop(now=0) is second
    assert queue.pop(now=0) is first
