"""Triton kernels of attention over a paged KV pool, and what each of them computes.

The pool of one layer is [blocks, block_size, 2 * kv_heads, head_size]: a position's keys, then its
values. Attention is computed in splits over the positions, as in FlashDecoding, and the splits'
results are merged by their log-sum-exp; the heads that share keys are rows of one tile. A prefix
that several sequences share is read once for all of them (Hydragen, cascade attention) and is one
more split. Softmax is computed with powers of 2, which a GPU has an instruction for.

Triton is imported with this module, which only a CUDA device needs. It compiles a kernel anew where
a number is 1 or a multiple of 16, or an address is: numbers that change from step to step, and
addresses of single numbers, are left out of that.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = [
    "EVERYTHING",
    "SplitPlan",
    "attend_rows",
    "attend_shared",
    "attend_tiles",
    "merge_splits",
    "tile_rows",
]

EVERYTHING: Final = 2**30
"""Positions that a row sees at most where no window slides: more than there are."""
_LEAST_ROWS: Final = 16
"""Rows of the smallest tile that tensor cores multiply."""
_MOST_ROWS: Final = 64
_ROW_TILE: Final = 32
"""Positions that are read at once for a single row: there is little to compute for each."""
_MERGED: Final = 4096
"""Numbers that one program merges: with fewer, beginning takes longer than reading."""
_NEVER: Final = -1.0e30
"""The score of a position that is not seen, and the log-sum-exp of a split that saw nothing."""


@triton.jit
def _fold(
    q, pool, table, position, inside, seen, best, total, result, kv_head, scale,
    KV_HEADS: tl.constexpr, SIZE: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    MASKED: tl.constexpr, NEVER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add a tile of positions to a running softmax (FlashAttention's online softmax)."""
    column = tl.arange(0, SIZE)
    if MASKED:
        block = tl.load(table + position // BLOCK_SIZE, mask=inside, other=0)
    else:
        block = tl.load(table + position // BLOCK_SIZE)
    slot = block.to(tl.int64) * BLOCK_SIZE + position % BLOCK_SIZE
    place = (pool + (slot * (2 * KV_HEADS) + kv_head) * SIZE)[:, None] + column[None, :]
    if MASKED:
        k = tl.load(place, mask=inside[:, None], other=0.0)
        v = tl.load(place + KV_HEADS * SIZE, mask=inside[:, None], other=0.0)
    else:
        k = tl.load(place)
        v = tl.load(place + KV_HEADS * SIZE)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    if MASKED:
        scores = tl.where(seen, scores, NEVER)
    higher = tl.maximum(best, tl.max(scores, 1))
    weights = tl.exp2(scores - higher[:, None])
    if MASKED:
        weights = tl.where(seen, weights, 0.0)
    kept = tl.exp2(best - higher)
    result = result * kept[:, None]
    result += tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
    return higher, total * kept + tl.sum(weights, 1), result


@triton.jit
def _scan(
    q, pool, table, start, clear, end, row_ends, sees, kv_head, scale,
    ROWS: tl.constexpr, KV_HEADS: tl.constexpr, SIZE: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr, NEVER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend from rows to the positions `start…end`, each to the last `sees` before its own end.

    All rows see all positions up to `clear`: whole tiles of these are not masked.
    """
    best = tl.full((ROWS,), NEVER, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    result = tl.zeros((ROWS, SIZE), tl.float32)
    masked = start + tl.maximum(clear - start, 0) // TILE * TILE
    for at in range(start, masked, TILE):
        position = at + tl.arange(0, TILE)
        best, total, result = _fold(
            q, pool, table, position, position >= 0, position[None, :] >= 0,
            best, total, result, kv_head, scale,
            KV_HEADS, SIZE, BLOCK_SIZE, False, NEVER, PRECISION,
        )  # fmt: skip
    for at in range(masked, end, TILE):
        position = at + tl.arange(0, TILE)
        inside = position < end
        behind = row_ends[:, None] - position[None, :]
        best, total, result = _fold(
            q, pool, table, position, inside, inside[None, :] & (behind > 0) & (behind <= sees),
            best, total, result, kv_head, scale,
            KV_HEADS, SIZE, BLOCK_SIZE, True, NEVER, PRECISION,
        )  # fmt: skip
    return best, total, result


@triton.jit
def _keep_split(
    found, sums, index, best, total, result, real, SIZE: tl.constexpr, NEVER: tl.constexpr
):
    """Store a split's result and its log-sum-exp; one that saw nothing weighs nothing."""
    column = tl.arange(0, SIZE)
    some = total > 0.0
    divisor = tl.where(some, total, 1.0)
    tl.store(
        found + index[:, None] * SIZE + column[None, :],
        result / divisor[:, None], mask=real[:, None],
    )  # fmt: skip
    tl.store(sums + index, tl.where(some, best + tl.log2(divisor), NEVER), mask=real)


@triton.jit(
    do_not_specialize=["sees"], do_not_specialize_on_alignment=["which", "first", "lengths"]
)
def _attend_rows(
    query, query_stride, pool, tables, table_stride, which, first, lengths, sees,
    found, sums, scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, SIZE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, SPLITS: tl.constexpr, SPLITS_BEFORE: tl.constexpr,
    TILE: tl.constexpr, NEVER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One row, one head of keys, one split of the positions that it sees."""
    row, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row)
    begin = tl.maximum(length - sees, 0)
    if SPLITS_BEFORE:
        begin = tl.maximum(begin, tl.load(first + row))
    table = tables + tl.load(which + row).to(tl.int64) * table_stride
    each = tl.cdiv(tl.cdiv(tl.maximum(length - begin, 0), SPLITS), TILE) * TILE
    start = begin + split * each
    end = tl.minimum(start + each, length)
    member, column = tl.arange(0, GROUP), tl.arange(0, SIZE)
    real = member < HEADS // KV_HEADS
    head = kv_head * (HEADS // KV_HEADS) + member
    q = tl.load(
        query + row * query_stride + head[:, None] * SIZE + column[None, :],
        mask=real[:, None], other=0.0,
    )  # fmt: skip
    best, total, result = _scan(
        q, pool, table, start, end, end, length + 0 * member, length, kv_head, scale,
        GROUP, KV_HEADS, SIZE, BLOCK_SIZE, TILE, NEVER, PRECISION,
    )  # fmt: skip
    index = (row * HEADS + head) * (SPLITS_BEFORE + SPLITS) + SPLITS_BEFORE + split
    _keep_split(found, sums, index, best, total, result, real, SIZE, NEVER)


@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["which", "lengths"])
def _attend_shared(
    query, query_stride, pool, tables, table_stride, which, rows, lengths, found, sums, scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, MEMBERS: tl.constexpr, SIZE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, SPLITS: tl.constexpr, ALL_SPLITS: tl.constexpr,
    TILE: tl.constexpr, NEVER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of rows (with their heads) against one split of the prefix that all of them share."""
    tile, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group: tl.constexpr = HEADS // KV_HEADS
    member, column = tile * MEMBERS + tl.arange(0, MEMBERS), tl.arange(0, SIZE)
    row, head = member // group, kv_head * group + member % group
    real = row < rows
    q = tl.load(
        query + row[:, None] * query_stride + head[:, None] * SIZE + column[None, :],
        mask=real[:, None], other=0.0,
    )  # fmt: skip
    table = tables + tl.load(which).to(tl.int64) * table_stride
    length = tl.load(lengths)
    each = tl.cdiv(tl.cdiv(length, SPLITS), TILE) * TILE
    start = split * each
    end = tl.minimum(start + each, length)
    best, total, result = _scan(
        q, pool, table, start, end, end, length + 0 * member, length, kv_head, scale,
        MEMBERS, KV_HEADS, SIZE, BLOCK_SIZE, TILE, NEVER, PRECISION,
    )  # fmt: skip
    index = (row * HEADS + head) * ALL_SPLITS + split
    _keep_split(found, sums, index, best, total, result, real, SIZE, NEVER)


@triton.jit(do_not_specialize=["sees"], do_not_specialize_on_alignment=["tiles"])
def _attend_tiles(
    query, query_stride, pool, tables, table_stride, tiles, sees, out, found, sums, scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, ROWS: tl.constexpr, SIZE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, SPLITS: tl.constexpr,
    TILE: tl.constexpr, NEVER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Some rows of one sequence, with the heads that share keys; one split of what they see.

    The last tiles come first: they see most.
    """
    place = tiles + (tl.num_programs(0) - 1 - tl.program_id(0)) * 5
    kv_head, split = tl.program_id(1), tl.program_id(2)
    table = tables + tl.load(place).to(tl.int64) * table_stride
    start, rows = tl.load(place + 1), tl.load(place + 2)
    batch_row, number = tl.load(place + 3), tl.load(place + 4)
    group: tl.constexpr = HEADS // KV_HEADS
    member, column = number * ROWS + tl.arange(0, ROWS), tl.arange(0, SIZE)
    row, head = member // group, kv_head * group + member % group
    real = row < rows
    first = number * ROWS // group
    after = tl.minimum((number * ROWS + ROWS - 1) // group + 1, rows)
    end = tl.where(first < rows, start + after, 0)
    begin = tl.maximum(start + first + 1 - sees, 0)
    each = tl.cdiv(tl.cdiv(tl.maximum(end - begin, 0), SPLITS), TILE) * TILE
    begin += split * each
    clear = tl.where(start + after > sees, 0, start + first + 1)
    end = tl.minimum(begin + each, end)
    at = (batch_row + row).to(tl.int64)
    q = tl.load(
        query + at[:, None] * query_stride + head[:, None] * SIZE + column[None, :],
        mask=real[:, None], other=0.0,
    )  # fmt: skip
    best, total, result = _scan(
        q, pool, table, begin, tl.minimum(clear, end), end, start + row + 1, sees, kv_head, scale,
        ROWS, KV_HEADS, SIZE, BLOCK_SIZE, TILE, NEVER, PRECISION,
    )  # fmt: skip
    index = at * HEADS + head
    if SPLITS == 1:
        result = result / tl.where(total > 0.0, total, 1.0)[:, None]
        target = out + index[:, None] * SIZE + column[None, :]
        tl.store(target, result.to(out.dtype.element_ty), mask=real[:, None])
    else:
        index = index * SPLITS + split
        _keep_split(found, sums, index, best, total, result, real, SIZE, NEVER)


@triton.jit
def _merge_splits(
    found, sums, out, places,
    SIZE: tl.constexpr, SPLITS: tl.constexpr, WIDTH: tl.constexpr, AT_ONCE: tl.constexpr,
    NEVER: tl.constexpr,
):  # fmt: skip
    """Some rows' heads."""
    place = tl.program_id(0).to(tl.int64) * AT_ONCE + tl.arange(0, AT_ONCE)
    split, column = tl.arange(0, WIDTH), tl.arange(0, SIZE)
    index = place[:, None] * SPLITS + split[None, :]
    real = (place < places)[:, None] & (split < SPLITS)[None, :]
    total = tl.load(sums + index, mask=real, other=NEVER)
    weights = tl.where(real, tl.exp2(total - tl.max(total, 1)[:, None]), 0.0)
    parts = tl.load(
        found + index[:, :, None] * SIZE + column[None, None, :],
        mask=real[:, :, None], other=0.0,
    )  # fmt: skip
    sum_of_weights = tl.where(place < places, tl.sum(weights, 1), 1.0)
    result = tl.sum(parts * weights[:, :, None], 1) / sum_of_weights[:, None]
    tl.store(
        out + place[:, None] * SIZE + column[None, :], result.to(out.dtype.element_ty),
        mask=(place < places)[:, None],
    )  # fmt: skip


class SplitPlan:
    """Room for the splits of rows of one size of batch; made once, and used for every layer.

    Args:
        rows, heads, size: of the queries.
        shared: splits of a prefix that all rows share; 0 if none is.
        own: splits of what is each row's own.
    """

    def __init__(
        self, rows: int, heads: int, size: int, *, shared: int, own: int, device: torch.device
    ) -> None:
        self.shared, self.own = shared, own
        places = (rows, heads, shared + own)
        self.found = torch.empty((*places, size), dtype=torch.float32, device=device)
        self.sums = torch.empty(places, dtype=torch.float32, device=device)


def attend_rows(
    query: Tensor,
    pool: Tensor,
    tables: Tensor,
    which: Tensor,
    first: Tensor,
    lengths: Tensor,
    plan: SplitPlan,
    *,
    sees: int = EVERYTHING,
) -> None:
    """Attend from one row each of several sequences; the splits' results go into `plan`.

    Args:
        query: [rows, heads, head_size]; rows may be apart, heads are not.
        pool: one layer's.
        tables: [sequences, blocks], int32.
        which: [rows], int32: the sequence, a row of `tables`.
        first: [rows], int32: positions that `attend_shared` reads; not read if `plan` has no splits
            for it.
        lengths: [rows], int32: positions up to before it are seen.
        sees: only so many of the last of them are (sliding-window attention).
    """
    rows, heads, size = query.shape
    kv_heads = pool.shape[2] // 2
    _attend_rows[(rows, kv_heads, plan.own)](
        query, query.stride(0), pool, tables, tables.stride(0), which, first, lengths, sees,
        plan.found, plan.sums, _scale(size),
        HEADS=heads, KV_HEADS=kv_heads, SIZE=size, BLOCK_SIZE=pool.shape[1],
        GROUP=max(_LEAST_ROWS, triton.next_power_of_2(heads // kv_heads)),
        SPLITS=plan.own, SPLITS_BEFORE=plan.shared, TILE=_ROW_TILE, NEVER=_NEVER,
        PRECISION=_precision(query.dtype), num_warps=2, num_stages=2,
    )  # fmt: skip


def attend_shared(
    query: Tensor, pool: Tensor, tables: Tensor, which: Tensor, length: Tensor, plan: SplitPlan
) -> None:
    """Attend from all rows to the first `length` positions, whose blocks all of them share.

    As `attend_rows`; of `which` and `length` only the first is read, which may be 0 for a length.
    Each key is read once for a tile of rows instead of once for each.
    """
    rows, heads, size = query.shape
    kv_heads = pool.shape[2] // 2
    members = tile_rows(rows * (heads // kv_heads), query.dtype)
    tiles = triton.cdiv(rows * (heads // kv_heads), members)
    _attend_shared[(tiles, kv_heads, plan.shared)](
        query, query.stride(0), pool, tables, tables.stride(0), which, rows, length,
        plan.found, plan.sums, _scale(size),
        HEADS=heads, KV_HEADS=kv_heads, MEMBERS=members, SIZE=size, BLOCK_SIZE=pool.shape[1],
        SPLITS=plan.shared, ALL_SPLITS=plan.shared + plan.own, TILE=_tile(query.dtype),
        NEVER=_NEVER, PRECISION=_precision(query.dtype),
    )  # fmt: skip


def attend_tiles(
    query: Tensor,
    pool: Tensor,
    tables: Tensor,
    tiles: Tensor,
    wide: int,
    plan: SplitPlan | None,
    out: Tensor,
    *,
    sees: int = EVERYTHING,
) -> None:
    """Attend from parts of prompts, several rows of a sequence each, to all up to each row's own
    position; the splits' results go into `plan`, or to `out` where there are no splits.

    Args:
        query: as in `attend_rows`; the rows' keys are in the pool.
        tiles: [tiles, 5], int32: for each its sequence, a row of `tables`; its part's first
            position, number of rows, and first row in `query`; and which tile of the part it is. A
            part has `rows * group` members, a row's heads that share keys counted apart.
        wide: members of a tile, from `tile_rows`.
        out: [rows, heads, head_size], contiguous.
        sees: only so many of the last positions are seen.
    """
    _, heads, size = query.shape
    kv_heads = pool.shape[2] // 2
    splits, found, sums = (1, out, out) if plan is None else (plan.own, plan.found, plan.sums)
    _attend_tiles[(tiles.shape[0], kv_heads, splits)](
        query, query.stride(0), pool, tables, tables.stride(0), tiles, sees,
        out, found, sums, _scale(size),
        HEADS=heads, KV_HEADS=kv_heads, ROWS=wide, SIZE=size, BLOCK_SIZE=pool.shape[1],
        SPLITS=splits, TILE=_tile(query.dtype), NEVER=_NEVER, PRECISION=_precision(query.dtype),
    )  # fmt: skip


def merge_splits(plan: SplitPlan, out: Tensor) -> None:
    """Write all splits together to `out`, [rows, heads, head_size], contiguous."""
    rows, heads, size = out.shape
    splits = plan.shared + plan.own
    width = triton.next_power_of_2(splits)
    at_once = max(1, _MERGED // (width * size))
    _merge_splits[(triton.cdiv(rows * heads, at_once),)](
        plan.found, plan.sums, out, rows * heads,
        SIZE=size, SPLITS=splits, WIDTH=width, AT_ONCE=at_once, NEVER=_NEVER,
    )  # fmt: skip


def tile_rows(wanted: int, dtype: torch.dtype) -> int:
    """Return how many of `wanted` rows, heads that share keys counted apart, are in one tile."""
    most = _LEAST_ROWS if dtype == torch.float32 else _MOST_ROWS  # registers hold no more
    members: int = min(most, max(_LEAST_ROWS, triton.next_power_of_2(wanted)))
    return members


def _tile(dtype: torch.dtype) -> int:
    """Return how many positions are read at once."""
    return 32 if dtype == torch.float32 else 64


def _scale(size: int) -> float:
    """Scores are taken to the power of 2, not of e."""
    return float(size**-0.5 * math.log2(math.e))


def _precision(dtype: torch.dtype) -> Any:
    """Exactness is checked in float32, where tensor cores would round to 10 bits."""
    return "ieee" if dtype == torch.float32 else "tf32"
