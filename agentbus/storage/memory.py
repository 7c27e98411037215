"""Blocks of KV in this process's memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from ..errors import MisuseError
from ..kv import BlockKey
from .base import Buffer, Kept

__all__ = ["MemoryBlocks"]


class MemoryBlocks:
    """A `BlockStore` of at most `max_blocks` blocks; the least recently used go first."""

    def __init__(self, *, block_bytes: int, max_blocks: int) -> None:
        if min(block_bytes, max_blocks) <= 0:
            raise MisuseError("a store of blocks has room for at least one, of at least one byte")
        self._block_bytes = block_bytes
        self._max_blocks = max_blocks
        self._blocks: OrderedDict[BlockKey, bytearray] = OrderedDict()

    def get(self, key: BlockKey) -> Buffer | None:
        """Return a block, or None where it is not held."""
        payload = self._blocks.get(key)
        if payload is not None:
            self._blocks.move_to_end(key)
        return payload

    def put(self, key: BlockKey, payload: Buffer) -> Kept:
        """Keep a copy of a block."""
        if len(payload) != self._block_bytes:
            raise MisuseError(f"a block here is {self._block_bytes} bytes, not {len(payload)}")
        self._blocks.pop(key, None)
        evicted = []
        while len(self._blocks) >= self._max_blocks:
            evicted.append(self._blocks.popitem(last=False)[0])
        self._blocks[key] = bytearray(payload)
        return Kept(True, tuple(evicted))

    def remove(self, key: BlockKey) -> None:
        """Let go of a block, if it is held."""
        self._blocks.pop(key, None)

    def keys(self) -> Sequence[BlockKey]:
        """Return what is held, least recently used first."""
        return list(self._blocks)

    def close(self) -> None:
        """Free it all."""
        self._blocks.clear()
