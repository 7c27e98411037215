"""The tensors of the KV pool.

Which block holds what is decided by `agentbus.kv.RadixIndex`; here are the bytes. Blocks are the
store that all sequences share; how attention reads them is a backend's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from agentbus.errors import ConfigError

__all__ = ["KVPool", "KVShape"]


@dataclass(frozen=True, slots=True)
class KVShape:
    """Sizes of what one position keeps in each layer."""

    layers: int
    kv_heads: int
    head_size: int
    block_size: int


class KVPool:
    """Blocks of keys and values, all layers.

    `blocks` is [layers, blocks, block_size, 2 * kv_heads, head_size]: a position's keys, then its
    values; `layers` are its parts, one by one. A block's *version* changes whenever it gets a new owner, so that copies of it can tell.
    """

    def __init__(
        self, shape: KVShape, blocks: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Take the memory of so many blocks.

        Raises:
            ConfigError: there is not so much.
        """
        self.shape = shape
        size = (blocks, shape.block_size, 2 * shape.kv_heads, shape.head_size)
        try:
            self.blocks = torch.empty((shape.layers, *size), dtype=dtype, device=device)
        except RuntimeError as error:  # what torch says when memory is out
            tokens = blocks * shape.block_size
            problem = f"{tokens} tokens of KV do not fit into the memory of {device}; lower it"
            raise ConfigError("kv_tokens", problem) from error
        self.layers = list(self.blocks.unbind())
        self._versions = [0] * blocks

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` of a block to another one."""
        self.blocks[:, target, :tokens] = self.blocks[:, source, :tokens]

    def own(self, blocks: Iterable[int]) -> None:
        """Say that blocks will be written by a new owner."""
        for block in blocks:
            self._versions[block] += 1

    def versioned(self, blocks: Sequence[int]) -> list[tuple[int, int]]:
        """Return blocks with their present versions."""
        return [(block, self._versions[block]) for block in blocks]
