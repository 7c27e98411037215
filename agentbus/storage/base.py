"""What keeps blocks of KV by their keys: the contract of a tier's store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ..kv import BlockKey

__all__ = ["BlockStore", "Buffer", "Kept"]

Buffer = bytes | bytearray | memoryview


class Kept(NamedTuple):
    """What became of a block that was to be kept."""

    stored: bool
    evicted: tuple[BlockKey, ...] = ()
    """Blocks that went to make room for it."""


class BlockStore(Protocol):
    """Keeps blocks of one size, up to a bound. Calls block; one thread at a time makes them."""

    def get(self, key: BlockKey) -> Buffer | None:
        """Return a block, or None where it is not held, whole and unchanged."""
        ...

    def put(self, key: BlockKey, payload: Buffer) -> Kept:
        """Keep a copy of a block, instead of what was held under its key.

        That it cannot be kept is no error: it is computed again.

        Raises:
            MisuseError: it is not of the store's block size.
        """
        ...

    def remove(self, key: BlockKey) -> None:
        """Let go of a block, if it is held."""
        ...

    def keys(self) -> Sequence[BlockKey]:
        """Return what is held, least recently used first."""
        ...

    def close(self) -> None:
        """Let go of what is held open."""
        ...
