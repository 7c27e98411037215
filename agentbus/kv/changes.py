"""What an index tells its engine about whole blocks: kept in the tree, or gone from it.

The index appends these in the order in which they happened, and the engine performs what they ask
for: names the blocks that are kept, and copies those that go to a lower tier. A block that went
holds its KV until its new owner writes to it: the engine acts before it computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["BlocksCached", "BlocksEvicted", "Change"]


class BlocksCached(NamedTuple):
    """Whole blocks of a sequence that the tree keeps from now on."""

    namespace: bytes
    tokens: Sequence[int]
    """All ids of the sequence, from its first to the end of the last of these blocks."""
    first: int
    """Block number of the first one: it holds the ids from `first * block_size` on."""
    blocks: tuple[int, ...]


class BlocksEvicted(NamedTuple):
    """Whole blocks that the tree no longer has; in a sequence's order."""

    blocks: tuple[int, ...]


Change = BlocksCached | BlocksEvicted
