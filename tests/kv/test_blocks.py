"""The pool of blocks, and the order of eviction."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from agentbus.errors import KVExhausted, MisuseError
from agentbus.kv import LRU, BlockPool
from agentbus.kv.policy import EvictionQueue


def test_blocks_come_back_when_the_last_reference_goes() -> None:
    pool = BlockPool(3)
    first, second = pool.allocate(2)
    assert (first, second, pool.free) == (0, 1, 1)
    pool.retain(first)
    pool.release(first)
    assert pool.free == 1
    pool.release(first)
    assert pool.free == 2


def test_a_double_release_raises() -> None:
    pool = BlockPool(1)
    (block,) = pool.allocate()
    pool.release(block)
    with pytest.raises(MisuseError, match="released twice"):
        pool.release(block)
    with pytest.raises(MisuseError, match="free"):
        pool.retain(block)
    with pytest.raises(MisuseError, match="unpinned twice"):
        pool.unpin([block])
    assert pool.free == 1


def test_allocation_is_all_or_nothing() -> None:
    pool = BlockPool(2)
    with pytest.raises(KVExhausted) as raised:
        pool.allocate(3)
    assert (raised.value.needed, raised.value.available) == (3, 2)
    assert pool.free == 2


def test_pins_are_counted_by_block() -> None:
    pool = BlockPool(4)
    blocks = pool.allocate(2)
    pool.pin(blocks)
    pool.pin(blocks[:1])
    assert (pool.pinned, pool.available) == (2, 2)
    pool.unpin(blocks)
    assert (pool.pinned, pool.available) == (1, 3)


def test_a_pool_is_not_empty() -> None:
    with pytest.raises(MisuseError):
        BlockPool(0)


@dataclass
class Item:
    last_used: int
    length: int = 1
    waits: bool = True


def test_the_queue_skips_what_is_used_again_and_sweeps_it_out() -> None:
    queue: EvictionQueue[Item] = EvictionQueue(LRU(), lambda item: item.waits)
    items = [Item(3), Item(1), Item(2)]
    for item in items:
        queue.push(item)
    items[1].last_used = 9
    items[2].waits = False
    assert queue.pop() is items[0]
    assert queue.pop() is None
    for clock in range(1000):
        items[0].last_used = clock
        queue.push(items[0])
        queue.sweep(items=1)
    assert len(queue) < 100
    assert queue.pop() is items[0]
