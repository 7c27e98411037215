"""The blocks of a KV pool, as numbers: which are free, and who refers to the others.

Fixed-size blocks with reference counts, as in vLLM's PagedAttention. What a block holds is the
index's business, and the tensors are the engine's.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import KVExhausted, MisuseError

__all__ = ["BlockPool"]


class BlockPool:
    """Hands out `total` blocks, numbered from 0.

    A block is freed when the last reference to it is released. A *pin* says that a reference must
    not be taken back by eviction: blocks that are referred to and not pinned can be reclaimed.
    """

    def __init__(self, total: int) -> None:
        if total <= 0:
            raise MisuseError(f"a KV pool needs at least one block, not {total}")
        self._references = [0] * total
        self._pins = [0] * total
        self._pinned = 0
        self._free = list(range(total - 1, -1, -1))

    @property
    def total(self) -> int:
        """Blocks in the pool."""
        return len(self._references)

    @property
    def free(self) -> int:
        """Blocks that nobody refers to."""
        return len(self._free)

    @property
    def pinned(self) -> int:
        """Blocks with at least one pin."""
        return self._pinned

    @property
    def available(self) -> int:
        """Blocks that are free, or would be once all that is not pinned is evicted."""
        return self.total - self._pinned

    def references(self, block: int) -> int:
        """Return how many references a block has."""
        return self._references[block]

    def pins(self, block: int) -> int:
        """Return how many pins a block has."""
        return self._pins[block]

    def free_blocks(self) -> tuple[int, ...]:
        """Return the free blocks, the next one to be handed out last."""
        return tuple(self._free)

    def allocate(self, count: int = 1) -> list[int]:
        """Take `count` free blocks, with one reference each.

        Raises:
            KVExhausted: fewer are free; none is taken.
        """
        if count > len(self._free):
            raise KVExhausted(needed=count, available=len(self._free))
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self._references[block] = 1
        return taken

    def retain(self, block: int) -> None:
        """Add a reference to a block that is in use.

        Raises:
            MisuseError: the block is free.
        """
        if self._references[block] == 0:
            raise MisuseError(f"KV block {block} is free and cannot be retained")
        self._references[block] += 1

    def release(self, block: int) -> None:
        """Drop a reference; the last one frees the block.

        Raises:
            MisuseError: the block is free already.
        """
        count = self._references[block]
        if count == 0:
            raise MisuseError(f"KV block {block} is released twice")
        self._references[block] = count - 1
        if count == 1:
            self._free.append(block)

    def pin(self, blocks: Iterable[int]) -> None:
        """Keep blocks from being counted as available."""
        pins = self._pins
        for block in blocks:
            if pins[block] == 0:
                self._pinned += 1
            pins[block] += 1

    def unpin(self, blocks: Iterable[int]) -> None:
        """Take back one `pin` of each block.

        Raises:
            MisuseError: a block is not pinned.
        """
        pins = self._pins
        for block in blocks:
            if pins[block] == 0:
                raise MisuseError(f"KV block {block} is unpinned twice")
            pins[block] -= 1
            if pins[block] == 0:
                self._pinned -= 1
