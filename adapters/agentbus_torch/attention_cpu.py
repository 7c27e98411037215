"""Attention on a CPU, over windows that hold each running sequence's KV by position."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .batch import Batch, Part, shared_blocks
from .grouped_query import Run, make_kernel
from .kv import KVPool
from .rope import Rope, turn_
from .windows import Windowed, Windows

__all__ = ["WindowAttention", "group_lengths"]

_CALL_POSITIONS = 64
"""What one more call for a group of rows costs, in positions that it could have read instead."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Rows of one token, one of each of `count` slots from `slot` on."""

    slot: int
    count: int
    longest: int
    masks: Mapping[int, Tensor | None]
    """What is added to scores, [count, 1, 1, longest], by how many positions a layer's tokens see
    (0 for all); None if all rows see all that is read."""


@dataclass(slots=True)
class _Singles:
    """Rows `row…row + count` of a batch, run after run."""

    row: int
    count: int
    runs: list[_Run]
    first: Part
    blocks: int
    """Whole blocks, from the first on, that are the same in all of them."""


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
        self._block_size = pool.shape.block_size
        self._sliding = tuple(sliding)
        self._index = torch.empty(0, dtype=torch.int64)
        self._singles: list[_Singles] = []
        self._chunks: list[_Chunk] = []

    def prepare(self, batch: Batch) -> None:
        """Lay out where the batch's rows go, and which calls read them."""
        self._hold(batch)
        singles = [part for part in batch.parts if part.rows == 1]
        self._singles = self._group(singles, batch)
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
        found = [self._attend_singles(window, query, group, sees) for group in self._singles]
        found += [self._attend_chunk(window, query, chunk, sees) for chunk in self._chunks]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _attend_singles(self, window: Tensor, query: Tensor, group: _Singles, sees: int) -> Tensor:
        rows = query[group.row : group.row + group.count]
        runs = []
        for run in group.runs:
            seen = window[run.slot : run.slot + run.count, :, : run.longest]
            keys, values = seen[:, : self._kv_heads], seen[:, self._kv_heads :]
            runs.append(Run(keys, values, run.masks[sees]))
        shared = 0 if sees or group.count == 1 else group.blocks * self._block_size
        return self._kernel.singles(rows, runs, shared).reshape(group.count, -1)

    def _attend_chunk(self, window: Tensor, query: Tensor, chunk: _Chunk, sees: int) -> Tensor:
        seen = window[chunk.slot, :, : chunk.end]
        rows = query[chunk.row : chunk.row + chunk.rows]
        keys, values = seen[: self._kv_heads], seen[self._kv_heads :]
        if sees in chunk.bands:
            return _banded(rows, keys, values, chunk.bands[sees]).reshape(chunk.rows, -1)
        return self._kernel.chunk(rows, keys, values).reshape(chunk.rows, -1)

    def _put(self, window: Tensor, pairs: Tensor) -> None:
        """Write a layer's keys and values where `prepare` said."""
        if singles := sum(group.count for group in self._singles):
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

    def _group(self, singles: Sequence[Part], batch: Batch) -> list[_Singles]:
        """Put rows whose slots are neighbours into runs, and runs that share enough into groups."""
        groups: list[_Singles] = []
        row = 0
        for count in self._run_lengths(singles):
            parts = singles[row : row + count]
            run = self._run(parts, batch.positions[row : row + count, None, None, None])
            blocks = shared_blocks(parts, self._block_size)
            group = _Singles(row, count, [run], parts[0], blocks)
            if not (groups and self._join(groups[-1], group, parts)):
                groups.append(group)
            row += count
        return groups

    def _run_lengths(self, singles: Sequence[Part]) -> list[int]:
        """Split rows as `group_lengths` does, and where those end that share a prefix."""
        alike = [
            shared_blocks((one, other), self._block_size)
            for one, other in itertools.pairwise(singles)
        ]
        ends = {
            place + 1
            for place, blocks in enumerate(alike)
            if 2 * blocks < max(alike[max(0, place - 1) : place + 2])
        }
        counts: list[int] = []
        row = 0
        for count in group_lengths([p.slot for p in singles], [p.end for p in singles]):
            cuts = [row, *sorted(end for end in ends if row < end < row + count), row + count]
            counts += [end - start for start, end in itertools.pairwise(cuts)]
            row += count
        return counts

    def _run(self, parts: Sequence[Part], last: Tensor) -> _Run:
        longest = max(part.end for part in parts)
        ragged = min(part.end for part in parts) < longest
        if ragged:
            for part in parts:
                self._windows.clear(part.slot, longest)
        masks = {
            sees: self._single_mask(last, longest, sees) if ragged or 0 < sees < longest else None
            for sees in set(self._sliding)
        }
        return _Run(parts[0].slot, len(parts), longest, masks)

    def _join(self, group: _Singles, other: _Singles, parts: Sequence[Part]) -> bool:
        """Let the rows of two groups read what all of them share together, if it is more than what
        each of them reads once now and would not any more; say whether they do."""
        both = min(group.blocks, shared_blocks((group.first, *parts), self._block_size))
        lost = sum((one.blocks - both) * one.count for one in (group, other) if one.count > 1)
        if both <= lost:
            return False
        group.runs += other.runs
        group.count += other.count
        group.blocks = both
        return True

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
