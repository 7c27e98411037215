"""Triton kernels over a batch's rows: norms, rotary positions, SwiGLU, and products of a single row.

A product of one row with a weight reads each weight once and computes next to nothing, so that what
counts is to keep the memory busy. cuBLAS pads the row to a tile of its tensor cores and splits the
sum into a second kernel; here a program reads a few of the weight's rows from end to end, with what
comes before the product (a norm) and behind it (a bias, a residual sum, SwiGLU) in the same kernel.

Triton is imported with this module, which only a CUDA device needs.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["gemv", "rms_norm", "silu_times", "turn_and_store"]

_GEMV_ROWS: Final = 4
_GEMV_TILE: Final = 1024
"""Rows of the weight in one program, and how much of each is read at once: over all products of an
8B model the fastest of those tried on an H100 (2 x 2048 takes 3 % longer)."""
_HEADS_AT_ONCE: Final = 8


@triton.jit(do_not_specialize_on_alignment=["positions", "slots"])
def _turn_and_store(
    qkv, cosine, sine, positions, slots, pool,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, SIZE: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Some heads of one row: turn what is a query or a key, and store keys and values."""
    row, part = tl.program_id(0), tl.program_id(1)
    all_heads = HEADS + 2 * KV_HEADS
    head = part * AT_ONCE + tl.arange(0, AT_ONCE)
    column = tl.arange(0, SIZE)
    inside = (head < all_heads)[:, None] & (column >= 0)[None, :]
    place = qkv + (row.to(tl.int64) * all_heads + head[:, None]) * SIZE
    x = tl.load(place + column[None, :], mask=inside, other=0.0).to(tl.float32)
    turned = inside & (head < HEADS + KV_HEADS)[:, None]
    other = (column + SIZE // 2) % SIZE
    y = tl.load(place + other[None, :], mask=turned, other=0.0).to(tl.float32)
    position = tl.load(positions + row).to(tl.int64)
    c = tl.load(cosine + position * SIZE + column).to(tl.float32)
    s = tl.load(sine + position * SIZE + column).to(tl.float32)
    x = tl.where(turned, x * c[None, :] + y * s[None, :], x)
    tl.debug_barrier()  # all of a head is read before any of it is overwritten
    tl.store(
        place + column[None, :], x.to(qkv.dtype.element_ty), mask=inside & (head < HEADS)[:, None]
    )
    slot = tl.load(slots + row).to(tl.int64)
    target = pool + (slot * 2 * KV_HEADS + head[:, None] - HEADS) * SIZE + column[None, :]
    kept = inside & (head >= HEADS)[:, None] & (slot >= 0)
    tl.store(target, x.to(pool.dtype.element_ty), mask=kept)


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
        slots: [rows], where in the pool it goes, `block * block_size + offset`; below 0, nowhere.
        pool: one layer's, [blocks, block_size, 2 * kv_heads, head_size].

    Returns:
        The queries, [rows, heads, head_size]: a view of `qkv`.
    """
    rows, all_heads, size = qkv.shape
    heads = all_heads - 2 * kv_heads
    _turn_and_store[(rows, triton.cdiv(all_heads, _HEADS_AT_ONCE))](
        qkv, cosine, sine, positions, slots, pool,
        HEADS=heads, KV_HEADS=kv_heads, SIZE=size, AT_ONCE=_HEADS_AT_ONCE, num_warps=4,
    )  # fmt: skip
    return qkv[:, :heads]


@triton.jit
def _silu(x):
    return x / (1.0 + tl.exp(-x))


@triton.jit
def _silu_times(gate_up, out, inner, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < inner
    gate = tl.load(gate_up + row * 2 * inner + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * inner + inner + column, mask=inside, other=0.0).to(tl.float32)
    found = _silu(gate) * up
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
def _rms_norm(x, weight, out, size, eps, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    inside = column < size
    value = tl.load(x + row * size + column, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    value *= tl.rsqrt(tl.sum(value * value, 0) / size + eps)
    tl.store(out + row * size + column, (value * factor).to(out.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return `x` [rows, size], contiguous, over the root of its mean square, times `weight` [size]."""
    rows, size = x.shape
    out = torch.empty_like(x)
    width = triton.next_power_of_2(size)
    _rms_norm[(rows,)](
        x, weight, out, size, eps, WIDTH=width, num_warps=min(16, max(1, width // 512))
    )
    return out


@triton.jit
def _gemv(
    x, weight, norm, bias, other, out, size, count, eps,
    NORMED: tl.constexpr, BIASED: tl.constexpr, PLUS: tl.constexpr, GATED: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Some of the results. `norm`, `bias` and `other` are read only where a flag says so."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    read = tl.minimum(row, count - 1).to(tl.int64)[:, None] * size
    total = tl.zeros((ROWS, TILE), tl.float32)
    second = tl.zeros((ROWS, TILE), tl.float32)
    squares = tl.zeros((TILE,), tl.float32)
    for at in tl.range(0, size, TILE, num_stages=2):
        column = at + tl.arange(0, TILE)
        inside = column < size if not EVEN else column >= 0
        value = tl.load(x + column, mask=inside, other=0.0).to(tl.float32)
        if NORMED:
            squares += value * value
            value *= tl.load(norm + column, mask=inside, other=0.0).to(tl.float32)
        place = weight + read + column[None, :]
        total += tl.load(place, mask=inside[None, :], other=0.0).to(tl.float32) * value[None, :]
        if GATED:
            place += count.to(tl.int64) * size
            second += (
                tl.load(place, mask=inside[None, :], other=0.0).to(tl.float32) * value[None, :]
            )
    root = tl.rsqrt(tl.sum(squares, 0) / size + eps) if NORMED else 1.0
    found = tl.sum(total, 1) * root
    if GATED:
        found = _silu(found) * tl.sum(second, 1) * root
    kept = row < count
    if BIASED:
        found += tl.load(bias + row, mask=kept, other=0.0).to(tl.float32)
    if PLUS:
        found += tl.load(other + row, mask=kept, other=0.0).to(tl.float32)
    tl.store(out + row, found.to(out.dtype.element_ty), mask=kept)


def gemv(
    x: Tensor,
    weight: Tensor,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    bias: Tensor | None = None,
    plus: Tensor | None = None,
    gated: bool = False,
) -> Tensor:
    """Return one row, [1, in], times a weight [out, in], transposed: [1, out], summed in float32.

    Args:
        x: contiguous, as all others are.
        norm: [in], the weight of an RMS norm of `x` that comes first, with `eps`.
        bias: [out], added to the product.
        plus: [1, out], the same; it is overwritten with the result.
        gated: the weight is a SwiGLU's gate and up, one over the other, [2 * out, in]: the result is
            silu(x * gate) * (x * up).
    """
    count, size = weight.shape
    count = count // 2 if gated else count
    out = torch.empty((1, count), dtype=x.dtype, device=x.device) if plus is None else plus
    tile = min(_GEMV_TILE, triton.next_power_of_2(size))
    _gemv[(triton.cdiv(count, _GEMV_ROWS),)](
        x, weight, weight if norm is None else norm, weight if bias is None else bias, out, out,
        size, count, eps,
        NORMED=norm is not None, BIASED=bias is not None, PLUS=plus is not None, GATED=gated,
        ROWS=_GEMV_ROWS, TILE=tile, EVEN=size % tile == 0, num_warps=4,
    )  # fmt: skip
    return out
