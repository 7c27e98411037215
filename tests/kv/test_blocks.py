"""The pool of blocks, and the order of eviction."""

from __future__ import annotations

import pytest

from agentbus.errors import KVExhausted, MisuseError
from agentbus.kv import BlockPool


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
