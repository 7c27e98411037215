"""Events that tests of KV events send."""

from __future__ import annotations

from agentbus.kv import BlockStored

__all__ = ["SIZE", "stored"]

SIZE = 4
"""Tokens of a block."""


def stored(start: int, blocks: int = 1) -> BlockStored:
    """Say that blocks of the tokens from `start` on are stored, from the first one on."""
    return BlockStored(
        block_hashes=tuple(range(start, start + blocks)),
        parent_block_hash=None,
        token_ids=tuple(range(start, start + blocks * SIZE)),
        block_size=SIZE,
    )
