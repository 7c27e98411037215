"""The tensors of the KV pool, and the contiguous window in which one sequence is computed.

Which block holds what is decided by `agentbus.kv.RadixIndex`; here are the bytes. Blocks are the
store that all sequences share. Attention on a CPU wants one stretch of memory, so the running
sequence has a *window*: blocks are copied in when it begins and out when it ends. The window
remembers which blocks it mirrors: the next call of the same conversation copies only what differs,
in practice next to nothing, and the time to its first token is that of its new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["KVPool", "KVShape", "KVWindow"]


@dataclass(frozen=True, slots=True)
class KVShape:
    """Sizes of what one position keeps in each layer."""

    layers: int
    kv_heads: int
    head_size: int
    block_size: int


class KVPool:
    """Blocks of keys and values, all layers.

    A block's *version* changes whenever it gets a new owner, so that copies of it can tell.
    """

    def __init__(
        self, shape: KVShape, blocks: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        width = 2 * shape.kv_heads * shape.head_size
        self.shape = shape
        self.layers = [
            torch.empty(blocks, shape.block_size * width, dtype=dtype, device=device)
            for _ in range(shape.layers)
        ]
        self._versions = [0] * blocks

    def own(self, blocks: Sequence[int]) -> None:
        """Say that blocks will be written by a new owner."""
        for block in blocks:
            self._versions[block] += 1

    def versioned(self, blocks: Sequence[int]) -> list[tuple[int, int]]:
        """Return blocks with their present versions."""
        return [(block, self._versions[block]) for block in blocks]


class KVWindow:
    """Keys and values of one sequence, by position."""

    def __init__(self, pool: KVPool, positions: int) -> None:
        """Make room for `positions` tokens; memory is taken as it is used."""
        shape = pool.shape
        size = shape.block_size
        self._pool = pool
        self._blocks = -(-positions // size)
        self._layers = [
            torch.empty(
                self._blocks * size,
                2 * shape.kv_heads,
                shape.head_size,
                dtype=layer.dtype,
                device=layer.device,
            )
            for layer in pool.layers
        ]
        self._mirrored: list[tuple[int, int]] = []

    def load(self, blocks: Sequence[int]) -> int:
        """Hold these blocks, from position 0 on; return how many had to be copied."""
        wanted = self._pool.versioned(blocks)
        kept = 0
        for ours, theirs in zip(self._mirrored, wanted, strict=False):
            if ours != theirs:
                break
            kept += 1
        self._mirrored = wanted
        if kept < len(blocks):
            index = torch.tensor(blocks[kept:], device=self._layers[0].device)
            for window, stored in zip(self._layers, self._pool.layers, strict=True):
                rows = window.view(self._blocks, -1)[kept : len(blocks)]
                torch.index_select(stored, 0, index, out=rows)
        return len(blocks) - kept

    def store(self, blocks: Sequence[int], first: int, length: int) -> None:
        """Copy the window's first `length` positions to `blocks`, from block number `first` on."""
        last = -(-length // self._pool.shape.block_size)
        if last <= first:
            return
        index = torch.tensor(blocks[first:last], device=self._layers[0].device)
        for window, stored in zip(self._layers, self._pool.layers, strict=True):
            stored.index_copy_(0, index, window.view(self._blocks, -1)[first:last])
        self._mirrored = self._pool.versioned(blocks[:last])

    def forget(self) -> None:
        """Mirror nothing: what the window holds is not in the blocks."""
        self._mirrored = []

    def put(self, layer: int, start: int, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values [rows, 2 * kv_heads, head_size] at positions `start…`.

        Returns:
            All keys and all values up to there, each [1, kv_heads, positions, head_size].
        """
        end = start + pairs.shape[0]
        window = self._layers[layer]
        window[start:end] = pairs
        seen = window[:end].transpose(0, 1)
        heads = self._pool.shape.kv_heads
        return seen[None, :heads], seen[None, heads:]
