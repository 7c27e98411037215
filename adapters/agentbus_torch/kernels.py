"""Triton kernels over a paged KV pool, and what each of them computes in plain torch.

The pool of one layer is [blocks, block_size, 2 * kv_heads, head_size]: a position's keys, then its
values. A *slot* is a position in the pool, `block * block_size + offset`. Attention is computed in
splits over the positions, as in FlashDecoding, and the splits' results are merged by their
log-sum-exp; the heads that share keys are the rows of one tile. A prefix that several sequences
share is read once for all of them (Hydragen, cascade attention) and is one more split.

Triton is imported with this module, which only a CUDA device needs. It compiles a kernel anew where
a number is 1 or a multiple of 16, or an address is: numbers that change from step to step, and
addresses of single numbers, are left out of that.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = [
    "EVERYTHING",
    "DecodePlan",
    "attend_chunk",
    "attend_rows",
    "attend_shared",
    "merge_splits",
    "shared_members",
    "silu_times",
    "turn_and_store",
]

EVERYTHING: Final = 2**30
"""Positions that a row sees at most where no window slides: more than there are."""
_LEAST_ROWS: Final = 16
"""Rows of the smallest tile that tensor cores multiply."""
_NEVER: Final = -1.0e30
"""The score of a position that is not seen, and the log-sum-exp of a split that saw nothing."""


@triton.jit(do_not_specialize_on_alignment=["positions", "slots"])
def _turn_and_store(
    qkv, cosine, sine, positions, slots, pool,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """One head of one row: turn it if it is a query or a key, and store keys and values."""
    row, head = tl.program_id(0), tl.program_id(1)
    column = tl.arange(0, SIZE)
    all_heads = HEADS + 2 * KV_HEADS
    place = qkv + (row * all_heads + head) * SIZE
    x = tl.load(place + column).to(tl.float32)
    if head < HEADS + KV_HEADS:
        position = tl.load(positions + row)
        other = tl.load(place + (column + SIZE // 2) % SIZE).to(tl.float32)
        c = tl.load(cosine + position * SIZE + column).to(tl.float32)
        s = tl.load(sine + position * SIZE + column).to(tl.float32)
        x = x * c + other * s
    if head < HEADS:
        tl.debug_barrier()  # all of the head is read before any of it is overwritten
        tl.store(place + column, x.to(qkv.dtype.element_ty))
    else:
        slot = tl.load(slots + row).to(tl.int64)
        target = pool + (slot * 2 * KV_HEADS + head - HEADS) * SIZE
        real = (slot >= 0) & (column >= 0)
        tl.store(target + column, x.to(pool.dtype.element_ty), mask=real)


def turn_and_store(
    qkv: Tensor,
    cosine: Tensor,
    sine: Tensor,
    positions: Tensor,
    slots: Tensor,
    pool: Tensor,
    kv_heads: int,
) -> Tensor:
    """Apply rotary positions to queries and keys, and put keys and values into the pool.

    Args:
        qkv: [rows, heads + 2 * kv_heads, head_size], contiguous; the queries are turned in place.
        cosine, sine: [positions, head_size]; the sines of the first half are negative.
        positions: [rows], of each row's token.
        slots: [rows], where in the pool it goes; below 0, nowhere.
        pool: one layer's.

    Returns:
        The queries, [rows, heads, head_size]: a view of `qkv`.
    """
    rows, all_heads, size = qkv.shape
    heads = all_heads - 2 * kv_heads
    _turn_and_store[(rows, all_heads)](
        qkv, cosine, sine, positions, slots, pool,
        HEADS=heads, KV_HEADS=kv_heads, SIZE=size, num_warps=1,
    )  # fmt: skip
    return qkv[:, :heads]


@triton.jit
def _silu_times(gate_up, out, inner, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < inner
    gate = tl.load(gate_up + row * 2 * inner + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * inner + inner + column, mask=inside, other=0.0).to(tl.float32)
    found = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * inner + column, found.to(out.dtype.element_ty), mask=inside)


def silu_times(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up of [rows, 2 * inner], gate first; [rows, inner]. The act of SwiGLU."""
    rows, both = gate_up.shape
    inner = both // 2
    out = torch.empty((rows, inner), dtype=gate_up.dtype, device=gate_up.device)
    block = 1024
    _silu_times[(rows, triton.cdiv(inner, block))](gate_up, out, inner, BLOCK=block)
    return out


@triton.jit
def _fold(
    q, pool, table, position, inside, seen, best, total, result, kv_head, scale,
    KV_HEADS: tl.constexpr, SIZE: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    NEVER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add a tile of positions to a running softmax (FlashAttention's online softmax)."""
    column = tl.arange(0, SIZE)
    block = tl.load(table + position // BLOCK_SIZE, mask=inside, other=0)
    slot = block.to(tl.int64) * BLOCK_SIZE + position % BLOCK_SIZE
    place = (slot[:, None] * 2 * KV_HEADS + kv_head) * SIZE + column[None, :]
    k = tl.load(pool + place, mask=inside[:, None], other=0.0)
    v = tl.load(pool + place + KV_HEADS * SIZE, mask=inside[:, None], other=0.0)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    scores = tl.where(seen, scores, NEVER)
    higher = tl.maximum(best, tl.max(scores, 1))
    weights = tl.where(seen, tl.exp(scores - higher[:, None]), 0.0)
    kept = tl.exp(best - higher)
    result = result * kept[:, None]
    result += tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
    return higher, total * kept + tl.sum(weights, 1), result


@triton.jit
def _scan(
    q, pool, table, start, end, kv_head, scale,
    ROWS: tl.constexpr, KV_HEADS: tl.constexpr, SIZE: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr, NEVER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend from rows that all see the positions `start…end`."""
    best = tl.full((ROWS,), NEVER, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    result = tl.zeros((ROWS, SIZE), tl.float32)
    for at in range(start, end, TILE):
        position = at + tl.arange(0, TILE)
        inside = position < end
        best, total, result = _fold(
            q, pool, table, position, inside, inside[None, :],
            best, total, result, kv_head, scale, KV_HEADS, SIZE, BLOCK_SIZE, NEVER, PRECISION,
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
    tl.store(sums + index, tl.where(some, best + tl.log(divisor), NEVER), mask=real)


@triton.jit(do_not_specialize_on_alignment=["which", "first", "lengths"])
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
    table = tables + tl.load(which + row) * table_stride
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
        q, pool, table, start, end, kv_head, scale,
        GROUP, KV_HEADS, SIZE, BLOCK_SIZE, TILE, NEVER, PRECISION,
    )  # fmt: skip
    index = (row * HEADS + head) * (SPLITS_BEFORE + SPLITS) + SPLITS_BEFORE + split
    _keep_split(found, sums, index, best, total, result, real, SIZE, NEVER)


@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["lengths"])
def _attend_shared(
    query, query_stride, pool, table, rows, lengths, found, sums, scale,
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
    length = tl.load(lengths)
    each = tl.cdiv(tl.cdiv(length, SPLITS), TILE) * TILE
    start = split * each
    end = tl.minimum(start + each, length)
    best, total, result = _scan(
        q, pool, table, start, end, kv_head, scale,
        MEMBERS, KV_HEADS, SIZE, BLOCK_SIZE, TILE, NEVER, PRECISION,
    )  # fmt: skip
    index = (row * HEADS + head) * ALL_SPLITS + split
    _keep_split(found, sums, index, best, total, result, real, SIZE, NEVER)


@triton.jit
def _merge_splits(
    found, sums, out,
    SIZE: tl.constexpr, SPLITS: tl.constexpr, WIDTH: tl.constexpr, NEVER: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64)
    split, column = tl.arange(0, WIDTH), tl.arange(0, SIZE)
    real = split < SPLITS
    total = tl.load(sums + place * SPLITS + split, mask=real, other=NEVER)
    weights = tl.where(real, tl.exp(total - tl.max(total, 0)), 0.0)
    parts = tl.load(
        found + (place * SPLITS + split[:, None]) * SIZE + column[None, :],
        mask=real[:, None], other=0.0,
    )  # fmt: skip
    result = tl.sum(parts * weights[:, None], 0) / tl.sum(weights, 0)
    tl.store(out + place * SIZE + column, result.to(out.dtype.element_ty))


class DecodePlan:
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
    plan: DecodePlan,
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
        plan.found, plan.sums, size**-0.5,
        HEADS=heads, KV_HEADS=kv_heads, SIZE=size, BLOCK_SIZE=pool.shape[1],
        GROUP=max(_LEAST_ROWS, triton.next_power_of_2(heads // kv_heads)),
        SPLITS=plan.own, SPLITS_BEFORE=plan.shared, TILE=_tile(query.dtype), NEVER=_NEVER,
        PRECISION=_precision(query.dtype),
    )  # fmt: skip


def attend_shared(
    query: Tensor, pool: Tensor, table: Tensor, length: Tensor, plan: DecodePlan
) -> None:
    """Attend from all rows to the first `length` positions, whose blocks `table` all of them share.

    As `attend_rows`; `length` is [1], int32, and may be 0. Each key is read once for a tile of rows instead of once for each.
    """
    rows, heads, size = query.shape
    kv_heads = pool.shape[2] // 2
    members = shared_members(rows * (heads // kv_heads), query.dtype)
    tiles = triton.cdiv(rows * (heads // kv_heads), members)
    _attend_shared[(tiles, kv_heads, plan.shared)](
        query, query.stride(0), pool, table, rows, length, plan.found, plan.sums, size**-0.5,
        HEADS=heads, KV_HEADS=kv_heads, MEMBERS=members, SIZE=size, BLOCK_SIZE=pool.shape[1],
        SPLITS=plan.shared, ALL_SPLITS=plan.shared + plan.own, TILE=_tile(query.dtype),
        NEVER=_NEVER, PRECISION=_precision(query.dtype),
    )  # fmt: skip


def merge_splits(plan: DecodePlan, out: Tensor) -> None:
    """Write all splits together to `out`, [rows, heads, head_size], contiguous."""
    rows, heads, size = out.shape
    splits = plan.shared + plan.own
    _merge_splits[(rows * heads,)](
        plan.found, plan.sums, out,
        SIZE=size, SPLITS=splits, WIDTH=triton.next_power_of_2(splits), NEVER=_NEVER,
    )  # fmt: skip


@triton.jit(do_not_specialize=["rows", "start", "sees"])
def _attend_chunk(
    query, query_stride, pool, table, out, rows, start, sees, scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, SIZE: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr, NEVER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of one sequence's rows, which stand at positions `start…`; one head."""
    tile, head = tl.program_id(0), tl.program_id(1)
    kv_head = head // (HEADS // KV_HEADS)
    row, column = tile * ROWS + tl.arange(0, ROWS), tl.arange(0, SIZE)
    real = row < rows
    q = tl.load(
        query + row[:, None].to(tl.int64) * query_stride + head * SIZE + column[None, :],
        mask=real[:, None], other=0.0,
    )  # fmt: skip
    end = tl.minimum(start + (tile + 1) * ROWS, start + rows)
    best = tl.full((ROWS,), NEVER, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    result = tl.zeros((ROWS, SIZE), tl.float32)
    for at in range(tl.maximum(start + tile * ROWS + 1 - sees, 0), end, TILE):
        position = at + tl.arange(0, TILE)
        inside = position < end
        behind = start + row[:, None] - position[None, :]
        seen = inside[None, :] & (behind >= 0) & (behind < sees)
        best, total, result = _fold(
            q, pool, table, position, inside, seen,
            best, total, result, kv_head, scale, KV_HEADS, SIZE, BLOCK_SIZE, NEVER, PRECISION,
        )  # fmt: skip
    result = result / tl.where(total > 0.0, total, 1.0)[:, None]
    target = out + (row[:, None].to(tl.int64) * HEADS + head) * SIZE + column[None, :]
    tl.store(target, result.to(out.dtype.element_ty), mask=real[:, None])


def attend_chunk(
    query: Tensor,
    pool: Tensor,
    table: Tensor,
    start: int,
    out: Tensor,
    *,
    sees: int = EVERYTHING,
) -> None:
    """Attend from a chunk of one sequence's rows to the last `sees` positions up to each row's own.

    Args:
        query: [rows, heads, head_size], at positions `start…`; their keys are in the pool.
        table: [blocks], int32.
        out: [rows, heads, head_size], contiguous.
    """
    rows, heads, size = query.shape
    kv_heads = pool.shape[2] // 2
    at_once = _most_rows(query.dtype) if rows > _LEAST_ROWS else _LEAST_ROWS
    _attend_chunk[(triton.cdiv(rows, at_once), heads)](
        query, query.stride(0), pool, table, out, rows, start, sees, size**-0.5,
        HEADS=heads, KV_HEADS=kv_heads, SIZE=size, BLOCK_SIZE=pool.shape[1],
        ROWS=at_once, TILE=_tile(query.dtype), NEVER=_NEVER, PRECISION=_precision(query.dtype),
    )  # fmt: skip


def _tile(dtype: torch.dtype) -> int:
    """Return how many positions are read at once."""
    return 32 if dtype == torch.float32 else 64


def shared_members(wanted: int, dtype: torch.dtype) -> int:
    """Return how many of `wanted` rows, heads that share keys counted apart, are in one tile."""
    members: int = min(_most_rows(dtype), max(_LEAST_ROWS, triton.next_power_of_2(wanted)))
    return members


def _most_rows(dtype: torch.dtype) -> int:
    """Return how many rows a tile has at most; in float32 registers hold no more."""
    return _LEAST_ROWS if dtype == torch.float32 else 64


def _precision(dtype: torch.dtype) -> Any:
    """Exactness is checked in float32, where tensor cores would round to 10 bits."""
    return "ieee" if dtype == torch.float32 else "tf32"
