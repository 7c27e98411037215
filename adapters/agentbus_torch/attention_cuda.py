"""Attention on a GPU: keys and values are read where they lie, in the pool's blocks.

Block tables stay on the device and grow by what is new, so that a step of decoding sends a few
numbers a row. A prefix that all rows of a step share is read once for all of them, where it is long
enough to win.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from agentbus.errors import ConfigError, MisuseError
from agentbus.kv import Copy

from .attention_kernels import (
    EVERYTHING,
    SplitPlan,
    attend_rows,
    attend_shared,
    attend_tiles,
    merge_splits,
    tile_rows,
)
from .batch import Batch, Part, shared_blocks
from .kv import KVPool
from .rope import Rope
from .row_kernels import turn_and_store
from .transfer import overwrite, upload

__all__ = ["Chunk", "PagedAttention", "Rows"]

_MULTIPROCESSORS: Final = 132
"""Of an H100. Programs of single rows are small: it takes four on each to keep it busy."""
_MOST_SPLITS: Final = 32
_SHARED_ROWS: Final = 4
_SHARED_TOKENS: Final = 512
"""From so many rows and positions on, a shared prefix is read once. Below, one more kernel costs
more (vLLM #44397 loses at 512, TensorRT-LLM #14396 wins from 256 to 1,024)."""


@dataclass(slots=True)
class Rows:
    """Rows of one token each, in numbers on the device; what a CUDA graph reads anew each time."""

    numbers: Tensor
    """[6, rows], int32: token, position, slot in the pool, sequence, length, and how many positions
    are read for all rows at once, the same for each. A row of no sequence has slot -1 and length
    0."""
    plan: SplitPlan
    sliding_plan: SplitPlan
    """For layers whose windows slide, in which nothing is read for all rows at once."""

    @property
    def tokens(self) -> Tensor:
        """[rows]"""
        return self.numbers[0]


@dataclass(slots=True)
class Tiles:
    """How rows of prompts are cut up."""

    numbers: Tensor
    """[tiles, 5], int32: see `attend_tiles`."""
    wide: int
    """Members of a tile, rows with the heads that share keys."""
    rows: int
    plan: SplitPlan | None
    """Where what they see is split, so that few tiles keep the GPU busy."""


@dataclass(slots=True)
class Chunk:
    """A part of one sequence's prompt, in numbers on the device, as `Rows` are."""

    all_numbers: Tensor
    """All of these, int32, one behind the other: they are written at once."""
    numbers: Tensor
    """[3, rows]: token, position, slot in the pool; a row of no token has slot -1."""
    wanted: Tensor
    """[1]: the last row of a token."""
    tiles: Tiles

    @property
    def tokens(self) -> Tensor:
        """[rows]"""
        return self.numbers[0]


@dataclass(slots=True)
class _Bound:
    """What `attend` computes: rows of one token each, then those of prompts."""

    positions: Tensor
    slots: Tensor
    rows: Rows | None = None
    tiles: Tiles | None = None


class PagedAttention:
    """The `Attention` of CUDA devices."""

    def __init__(
        self,
        pool: KVPool,
        rope: Rope,
        *,
        heads: int,
        slots: int,
        positions: int,
        sliding: Sequence[int],
    ) -> None:
        """Make block tables for `slots` sequences of up to `positions` tokens each.

        Args:
            sliding: how many of the last positions each layer sees; 0 for all.

        Raises:
            ConfigError: the kernels have no tiles for this size of head or block.
        """
        size, head = pool.shape.block_size, pool.shape.head_size
        if head & (head - 1) or head < 16:
            raise ConfigError("device", f"heads of size {head} are not supported on a GPU")
        self._pool = pool
        self._rope = rope
        self._heads = heads
        self._sees = [seen or EVERYTHING for seen in sliding]
        self._device = pool.layers[0].device
        self._tables = torch.zeros(
            (slots, -(-positions // size)), dtype=torch.int32, device=self._device
        )
        self._known = [0] * slots
        """Blocks of each sequence that its table on the device has."""
        self._free = list(range(slots - 1, -1, -1))
        self._plans: dict[tuple[int, bool], SplitPlan] = {}
        self._together: tuple[tuple[int, ...], int] = ((), 0)
        """Sequences of the last step, and how many blocks they share."""
        self._bound = _Bound(torch.empty(0), torch.empty(0))

    def open(self, blocks: Sequence[int], length: int, copies: Sequence[Copy]) -> int:
        """Give a sequence a table; what was cached of it is in its blocks already, but for copies."""
        if not self._free:
            raise MisuseError("all slots are taken")
        slot = self._free.pop()
        self.reopen(slot, blocks, length, copies)
        return slot

    def reopen(self, slot: int, blocks: Sequence[int], length: int, copies: Sequence[Copy]) -> None:
        """Read the sequence's table anew at the next step, and copy heads of blocks."""
        self._known[slot] = 0
        self._together = ((), 0)
        for source, target, tokens in copies:
            self._pool.copy(source, target, tokens)

    def save(self, slot: int, blocks: Sequence[int], first: int, length: int) -> None:
        """Nothing to do: what is computed goes into the blocks at once."""

    def close(self, slot: int, *, keep: bool) -> None:
        """Free a sequence's table."""
        self._free.append(slot)
        self._together = ((), 0)

    def prepare(self, batch: Batch) -> None:
        """Lay out where the batch's rows go, and which kernels read them."""
        singles = [part for part in batch.parts if part.rows == 1]
        prompts = batch.parts[len(singles) :]
        self._extend_tables(batch.parts)
        places = [place for part in batch.parts for place in self._places(part)]
        self._bound = _Bound(
            batch.positions,
            upload(places, torch.int32, self._device),
            self.rows(singles, len(singles)) if singles else None,
            self._cut(prompts) if prompts else None,
        )

    def _places(self, part: Part) -> list[int]:
        """Return where in the pool a part's rows go."""
        size = self._pool.shape.block_size
        blocks = part.blocks
        return [blocks[p // size] * size + p % size for p in range(part.start, part.end)]

    def rows(self, parts: Sequence[Part], width: int) -> Rows:
        """Return rows for sequences that decode, filled up with empty ones to `width`."""
        shared = self._shared(parts)
        rows = Rows(
            torch.empty((6, width), dtype=torch.int32, device=self._device),
            self._plan(width, shared > 0),
            self._plan(width, shared=False),
        )
        self._fill_rows(rows, parts)
        return rows

    def fill(self, step: Rows | Chunk, parts: Sequence[Part], behind: Tensor | None = None) -> None:
        """Write parts into a step like theirs: sequences that decode, or a part of one prompt.

        `behind` is `Batch`'s.
        """
        if isinstance(step, Rows):
            self._fill_rows(step, parts, behind)
        else:
            self._fill_chunk(step, *parts)

    def _fill_rows(self, rows: Rows, parts: Sequence[Part], behind: Tensor | None = None) -> None:
        size, width = self._pool.shape.block_size, rows.numbers.shape[1]
        self._extend_tables(parts)
        shared = self._shared(parts) * size if rows.plan.shared else 0
        numbers = [
            (part.tokens[0], part.start, *self._places(part), part.slot, part.end, shared)
            for part in parts
        ]
        numbers += [(0, 0, -1, 0, 0, shared)] * (width - len(parts))
        overwrite(rows.numbers, itertools.chain.from_iterable(zip(*numbers, strict=True)))
        if behind is not None:
            rows.tokens.copy_(behind.index_select(0, rows.tokens))

    def chunk(self, part: Part, width: int) -> Chunk:
        """Return a part of a prompt, filled up with empty rows to `width`."""
        group = self._heads // self._pool.shape.kv_heads
        wide = tile_rows(width * group, self._pool.layers[0].dtype)
        tiles = -(-width * group // wide)
        rows, wanted = 3 * width, 3 * width + 1
        everything = torch.empty(wanted + 5 * tiles, dtype=torch.int32, device=self._device)
        chunk = Chunk(
            everything,
            everything[:rows].view(3, width),
            everything[rows:wanted],
            self._tiles(everything[wanted:].view(tiles, 5), wide, width),
        )
        self._fill_chunk(chunk, part)
        return chunk

    def _fill_chunk(self, chunk: Chunk, part: Part) -> None:
        self._extend_tables([part])
        rest = chunk.tiles.rows - part.rows
        tiles = [(part.slot, part.start, part.rows, 0, n) for n in range(len(chunk.tiles.numbers))]
        nothing = [0] * rest
        numbers = (part.tokens, nothing, range(part.start, part.end), nothing)
        places = (self._places(part), [-1] * rest)
        overwrite(
            chunk.all_numbers,
            itertools.chain(*numbers, *places, [part.rows - 1], *tiles),
        )

    def bind(self, step: Rows | Chunk) -> None:
        """Have `attend` compute this, as `prepare` does the rows of a batch."""
        if isinstance(step, Rows):
            self._bound = _Bound(step.numbers[1], step.numbers[2], rows=step)
        else:
            self._bound = _Bound(step.numbers[1], step.numbers[2], tiles=step.tiles)

    def _cut(self, parts: Sequence[Part]) -> Tiles:
        """Cut parts of prompts into tiles."""
        group = self._heads // self._pool.shape.kv_heads
        most = max(part.rows for part in parts)
        wide = tile_rows(most * group, self._pool.layers[0].dtype)
        tiles: list[tuple[int, int, int, int, int]] = []
        row = 0
        for part in parts:
            count = -(-part.rows * group // wide)
            tiles += [(part.slot, part.start, part.rows, row, number) for number in range(count)]
            row += part.rows
        return self._tiles(upload(tiles, torch.int32, self._device), wide, row)

    def _tiles(self, numbers: Tensor, wide: int, rows: int) -> Tiles:
        shape = self._pool.shape
        splits = _splits(len(numbers) * shape.kv_heads // 2)
        plan = None
        if splits > 1:
            plan = SplitPlan(
                rows, self._heads, shape.head_size, shared=0, own=splits, device=self._device
            )
        return Tiles(numbers, wide, rows, plan)

    def is_shared(self, parts: Sequence[Part]) -> bool:
        """Say whether a prefix is to be read once for all of these rows."""
        return self._shared(parts) > 0

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """See `Attention.attend`."""
        pool, rope, sees = self._pool.layers[layer], self._rope, self._sees[layer]
        bound = self._bound
        query = turn_and_store(
            qkv,
            rope.cosine,
            rope.sine,
            bound.positions,
            bound.slots,
            pool,
            self._pool.shape.kv_heads,
        )
        out = torch.empty(query.shape, dtype=qkv.dtype, device=qkv.device)
        if bound.rows is not None:
            self._attend_rows(bound.rows, query, pool, out, sees)
        if (tiles := bound.tiles) is not None:
            query, part = query[-tiles.rows :], out[-tiles.rows :]
            attend_tiles(
                query, pool, self._tables, tiles.numbers, tiles.wide, tiles.plan, part, sees=sees
            )
            if tiles.plan is not None:
                merge_splits(tiles.plan, part)
        return out.flatten(1)

    def _attend_rows(self, rows: Rows, query: Tensor, pool: Tensor, out: Tensor, sees: int) -> None:
        width = rows.numbers.shape[1]
        which, lengths, shared = rows.numbers[3:]
        own = query[:width]
        plan = rows.plan if sees == EVERYTHING else rows.sliding_plan
        if plan.shared:
            attend_shared(own, pool, self._tables, which, shared, plan)
        attend_rows(own, pool, self._tables, which, shared, lengths, plan, sees=sees)
        merge_splits(plan, out[:width])

    def _plan(self, rows: int, shared: bool) -> SplitPlan:
        """Return a plan of its own for each size of batch: graphs keep its addresses."""
        key = rows, shared
        if key not in self._plans:
            shape = self._pool.shape
            wanted = rows * (self._heads // shape.kv_heads)
            tiles = -(-wanted // tile_rows(wanted, self._pool.layers[0].dtype))
            self._plans[key] = SplitPlan(
                rows,
                self._heads,
                shape.head_size,
                shared=_splits(tiles * shape.kv_heads) if shared else 0,
                own=_splits(rows * shape.kv_heads // 4),
                device=self._device,
            )
        return self._plans[key]

    def _shared(self, parts: Sequence[Part]) -> int:
        """Return how many whole blocks all parts share, if reading them once wins; else 0."""
        slots = tuple(part.slot for part in parts)
        if self._together[0] != slots:
            blocks = shared_blocks(parts, self._pool.shape.block_size)
            wins = (
                EVERYTHING in self._sees
                and len(parts) >= _SHARED_ROWS
                and blocks * self._pool.shape.block_size >= _SHARED_TOKENS
            )
            self._together = slots, blocks if wins else 0
        return self._together[1]

    def _extend_tables(self, parts: Sequence[Part]) -> None:
        """Tell the device which blocks the sequences got since the last step, all at once."""
        width = self._tables.shape[1]
        places: list[int] = []
        blocks: list[int] = []
        for part in parts:
            known, count = self._known[part.slot], len(part.blocks)
            if known < count:
                first = part.slot * width
                places += range(first + known, first + count)
                blocks += part.blocks[known:]
                self._known[part.slot] = count
        if places:
            at, new = upload((places, blocks), torch.int32, self._device)
            self._tables.view(-1).index_put_((at,), new)


def _splits(programs: int) -> int:
    """Return into how many parts positions are split for so many programs to keep a GPU busy."""
    splits = 1
    while splits < _MOST_SPLITS and 2 * splits * programs <= _MULTIPROCESSORS:
        splits *= 2
    return splits
