"""Blocks in memory: copies, within a bound."""

from __future__ import annotations

import pytest

from agentbus.errors import MisuseError
from agentbus.kv import BlockKey
from agentbus.storage import Kept, MemoryBlocks


def key(number: int) -> BlockKey:
    return BlockKey(number.to_bytes(32, "big"))


def test_blocks_are_copies_and_the_least_recently_used_go_first() -> None:
    store = MemoryBlocks(block_bytes=3, max_blocks=2)
    own = bytearray(b"one")
    assert store.put(key(1), memoryview(own)) == Kept(True)
    own[:] = b"___"
    store.put(key(2), b"two")
    assert store.get(key(1)) == b"one"
    assert store.put(key(3), b"thr") == Kept(True, (key(2),))
    assert store.keys() == [key(1), key(3)]
    assert store.put(key(1), b"uno") == Kept(True)
    assert store.keys() == [key(3), key(1)]
    store.remove(key(3))
    store.remove(key(3))
    assert store.get(key(3)) is None
    store.close()
    assert store.keys() == []


def test_misuse_is_refused() -> None:
    with pytest.raises(MisuseError):
        MemoryBlocks(block_bytes=3, max_blocks=0)
    with pytest.raises(MisuseError):
        MemoryBlocks(block_bytes=3, max_blocks=1).put(key(1), b"four")
