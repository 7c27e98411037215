"""Attention on a CPU by torch's operations, over windows that hold each running sequence's KV by
position."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .batch import Batch, Part
from .grouped_query import make_kernel
from .kv import KVPool
from .rope import Rope, turn_
from .windows import Windowed, Windows

__all__ = ["WindowAttention", "group_lengths"]

_CALL_POSITIONS = 64
"""What one more call for a group of rows costs, in positions that it could have read instead."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Rows `row…row + count` of a batch, one of each slot from `slot` on."""

    row: int
    count: int
    slot: int
    longest: int
    masks: Mapping[int, Tensor | None]
    """What is added to scores, [count, 1, 1, longest], by how many positions a layer's tokens see
    (0 for all); None if all rows see all that is read."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Rows `row…row + rows` of a batch, all of one slot, of which the last is at `end - 1`."""

    row: int
    rows: int
    slot: int
    end: int
    bands: Mapping[int, Tensor]
    """What is added to scores [rows, end] where a layer's tokens see fewer positions, by these."""


def group_lengths(slots: Sequence[int], lengths: Sequence[int]) -> list[int]:
    """Split sequences of one row, in order of their slots, into groups that are computed together.

    A group's slots are neighbours and all its members are read to the longest one's length; that
    is worth it while what is read in vain costs less than calls of their own. Returns group sizes.
    """
    sizes: list[int] = []
    longest = total = 0
    for number, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
        joined = max(longest, length)
        if sizes and slot == slots[number - 1] + 1:
            in_vain = joined * (sizes[-1] + 1) - total - length
            if in_vain <= _CALL_POSITIONS * sizes[-1]:
                sizes[-1] += 1
                longest, total = joined, total + length
                continue
        sizes.append(1)
        longest = total = length
    return sizes


class WindowAttention(Windowed):
    """The `Attention` of CPUs."""

    def __init__(
        self,
        pool: KVPool,
        rope: Rope,
        *,
        slots: int,
        positions: int,
        sliding: Sequence[int],
    ) -> None:
        """Make room for `slots` sequences of up to `positions` tokens each.

        Args:
            sliding: for each layer, how many positions a token sees, itself included; 0 for all.
        """
        super().__init__(Windows(pool, slots=slots, positions=positions))
        self._rope = rope
        self._factors = (torch.empty(0), torch.empty(0))
        self._kv_heads = pool.shape.kv_heads
        self._dtype = pool.layers[0].dtype
        self._kernel = make_kernel(self._dtype)
        self._sliding = tuple(sliding)
        self._index = torch.empty(0, dtype=torch.int64)
        self._runs: list[_Run] = []
        self._chunks: list[_Chunk] = []

    def prepare(self, batch: Batch) -> None:
        """Lay out where the batch's rows go, and which calls read them."""
        self._hold(batch)
        singles = [part for part in batch.parts if part.rows == 1]
        self._runs = self._lay_out(singles, batch.positions)
        self._index = self._places(singles)
        self._chunks = []
        row = len(singles)
        for part in batch.parts[row:]:
            bands = {
                seen: _band(part, seen, self._dtype)
                for seen in set(self._sliding)
                if 0 < seen < part.end
            }
            self._chunks.append(_Chunk(row, part.rows, part.slot, part.end, bands))
            row += part.rows
        rope, positions = self._rope, batch.positions
        self._factors = rope.cosine[positions][:, None], rope.sine[positions][:, None]

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """See `Attention.attend`."""
        window, sees = self._windows.layers[layer], self._sliding[layer]
        rows, all_heads, size = qkv.shape
        heads = all_heads - 2 * self._kv_heads
        turn_(qkv[:, : heads + self._kv_heads], *self._factors)
        self._put(window, qkv[:, heads:])
        query = qkv[:, :heads].reshape(rows, self._kv_heads, heads // self._kv_heads, size)
        found = [self._attend_run(window, query, run, sees) for run in self._runs]
        found += [self._attend_chunk(window, query, chunk, sees) for chunk in self._chunks]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _attend_run(self, window: Tensor, query: Tensor, run: _Run, sees: int) -> Tensor:
        rows = query[run.row : run.row + run.count]
        seen = window[run.slot : run.slot + run.count, :, : run.longest]
        keys, values = seen[:, : self._kv_heads], seen[:, self._kv_heads :]
        return self._kernel.singles(rows, keys, values, run.masks[sees]).reshape(run.count, -1)

    def _attend_chunk(self, window: Tensor, query: Tensor, chunk: _Chunk, sees: int) -> Tensor:
        seen = window[chunk.slot, :, : chunk.end]
        rows = query[chunk.row : chunk.row + chunk.rows]
        keys, values = seen[: self._kv_heads], seen[self._kv_heads :]
        if sees in chunk.bands:
            return _banded(rows, keys, values, chunk.bands[sees]).reshape(chunk.rows, -1)
        return self._kernel.chunk(rows, keys, values).reshape(chunk.rows, -1)

    def _put(self, window: Tensor, pairs: Tensor) -> None:
        """Write a layer's keys and values where `prepare` said."""
        if singles := sum(run.count for run in self._runs):
            flat = window.view(-1, window.shape[-1])
            flat.index_copy_(0, self._index, pairs[:singles].reshape(-1, window.shape[-1]))
        for chunk in self._chunks:
            rows = pairs[chunk.row : chunk.row + chunk.rows]
            window[chunk.slot, :, chunk.end - chunk.rows : chunk.end] = rows.transpose(0, 1)

    def _places(self, singles: Sequence[Part]) -> Tensor:
        """Return where in a layer, as rows of one head and position, single rows go."""
        capacity, heads = self._windows.capacity, 2 * self._kv_heads
        return torch.tensor(
            [
                (part.slot * heads + head) * capacity + part.start
                for part in singles
                for head in range(heads)
            ],
            dtype=torch.int64,
        )

    def _lay_out(self, singles: Sequence[Part], positions: Tensor) -> list[_Run]:
        """Put rows into runs that are computed together."""
        runs: list[_Run] = []
        row = 0
        for count in group_lengths([p.slot for p in singles], [p.end for p in singles]):
            parts = singles[row : row + count]
            last = positions[row : row + count, None, None, None]
            longest = max(part.end for part in parts)
            ragged = min(part.end for part in parts) < longest
            if ragged:
                for part in parts:
                    self._windows.clear(part.slot, longest)
            masks = {
                sees: self._single_mask(last, longest, sees)
                if ragged or 0 < sees < longest
                else None
                for sees in set(self._sliding)
            }
            runs.append(_Run(row, count, parts[0].slot, longest, masks))
            row += count
        return runs

    def _single_mask(self, last: Tensor, longest: int, sees: int) -> Tensor:
        """Hide what is behind each row's position, and what it does not see any more."""
        hidden = torch.arange(longest) > last
        if sees:
            hidden |= torch.arange(longest) <= last - sees
        return torch.zeros(hidden.shape, dtype=self._dtype).masked_fill_(hidden, -math.inf)


def _band(part: Part, sees: int, dtype: torch.dtype) -> Tensor:
    """Let row i of a part see the `sees` positions up to `start + i`."""
    mask = torch.full((part.rows, part.end), -math.inf, dtype=dtype)
    return mask.triu(part.start + 1) + mask.tril(part.start - sees)


def _banded(query: Tensor, keys: Tensor, values: Tensor, band: Tensor) -> Tensor:
    """Attend as `Kernel.chunk` does, to what a band lets through (sliding-window attention)."""
    shared = (keys.shape[0], query.shape[2], *keys.shape[1:])
    found = functional.scaled_dot_product_attention(
        query.permute(1, 2, 0, 3),
        keys[:, None].expand(shared),
        values[:, None].expand(shared),
        attn_mask=band,
    )
    return found.permute(2, 0, 1, 3)
