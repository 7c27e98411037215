"""Grouped-query attention of plain tensors on a CPU.

There are two ways to compute it, chosen by what was measured on a CPU with AVX-512: torch's fused
attention, and plain products around a softmax. In bfloat16 oneDNN's products are two to three times
as fast as those within the fused attention; in float32 the two are equal, and the fused one needs
no memory for scores.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from .linear import has_fast_bfloat16

__all__ = ["Kernel", "make_kernel"]

_FEW_POSITIONS = 1024
"""Positions, of all sequences of a group, under which one fused call beats three products."""

_BLOCK_ROWS = 64
"""Rows of a chunk whose scores are in memory at once: they should stay in the CPU's cache."""


class Kernel(Protocol):
    """Grouped-query attention: `group` heads share the keys and values of one."""

    def singles(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attend with one row of each sequence.

        Args:
            query: [count, kv_heads, group, size]; so is the result.
            keys, values: [count, kv_heads, longest, size]
            mask: added to scores, [count, 1, 1, longest]; None if all rows see all.
        """
        ...

    def chunk(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend with rows of one sequence, the last ones of those that the keys are of.

        Args:
            query: [rows, kv_heads, group, size]; so is the result.
            keys, values: [kv_heads, end, size]
        """
        ...


class _Fused:
    """torch's fused attention."""

    def __init__(self) -> None:
        self._mask = torch.empty(0, 0)

    def singles(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        return functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)

    def chunk(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        rows, kv_heads, group, size = query.shape
        end = keys.shape[1]
        shared = (kv_heads, group, end, size)
        found = functional.scaled_dot_product_attention(
            query.permute(1, 2, 0, 3),
            keys[:, None].expand(shared),
            values[:, None].expand(shared),
            attn_mask=self._causal(rows, end, query.dtype) if rows < end else None,
            is_causal=rows == end,
        )
        return found.permute(2, 0, 1, 3)

    def _causal(self, rows: int, end: int, dtype: torch.dtype) -> Tensor:
        """Return a mask by which row i sees up to `end - rows + i`; the next layer's is the same."""
        if self._mask.shape != (rows, end) or self._mask.dtype != dtype:
            mask = torch.full((rows, end), -math.inf, dtype=dtype)
            self._mask = mask.triu_(end - rows + 1)
        return self._mask


class _Products:
    """_Products around a softmax. Scores go to memory that is kept: fresh pages cost more."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._later = torch.full((_BLOCK_ROWS, _BLOCK_ROWS), -math.inf, dtype=dtype).triu_(1)
        self._scratch = torch.empty(2, 0, dtype=dtype)
        self._fused = _Fused()

    def singles(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        if len(query) * keys.shape[2] < _FEW_POSITIONS:
            return self._fused.singles(query, keys, values, mask)
        return _weighted(_scores(query, keys, mask).softmax(-1), values)

    def chunk(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        rows, end = len(query), keys.shape[1]
        found = torch.empty_like(query, memory_format=torch.contiguous_format)
        for first in range(0, rows, _BLOCK_ROWS):
            last = min(first + _BLOCK_ROWS, rows)
            seen = end - rows + last
            found[first:last] = self._block(query[first:last], keys[:, :seen], values[:, :seen])
        return found

    def _block(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        rows, kv_heads, group, size = query.shape
        seen = keys.shape[1]
        shape = (kv_heads, group * rows, seen)
        scores, weights = (
            buffer[: math.prod(shape)].view(shape) for buffer in self._buffers(shape)
        )
        torch.baddbmm(
            scores,
            query.permute(1, 2, 0, 3).reshape(kv_heads, group * rows, size),
            keys.contiguous().transpose(1, 2),  # else oneDNN makes a transposed copy
            beta=0,
            alpha=1 / math.sqrt(size),
            out=scores,
        )
        scores.view(kv_heads, group, rows, seen)[..., seen - rows :] += self._later[:rows, :rows]
        torch.softmax(scores, -1, out=weights)
        return torch.bmm(weights, values).view(kv_heads, group, rows, size).permute(2, 0, 1, 3)

    def _buffers(self, shape: tuple[int, ...]) -> Tensor:
        if math.prod(shape) > self._scratch.shape[1]:
            self._scratch = self._scratch.new_empty(2, math.prod(shape))
        return self._scratch


def _scores(query: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    """Return scores [count, kv_heads, group, longest] of the arguments of `singles`.

    Keys times query, not the reverse: the matrix with many rows on the left is faster.
    """
    count, kv_heads, group, size = query.shape
    longest = keys.shape[2]
    if mask is None:
        added = query.new_empty(1, 1, 1)
    else:
        added = mask.expand(count, kv_heads, 1, longest).reshape(-1, longest, 1)
    scores = torch.baddbmm(
        added,
        keys.reshape(-1, longest, size),
        query.reshape(-1, group, size).transpose(1, 2),
        beta=0 if mask is None else 1,
        alpha=1 / math.sqrt(size),
    )
    return scores.transpose(1, 2).view((*query.shape[:3], longest))


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Return sums of values [count, kv_heads, longest, size], weighted by [.., group, longest]."""
    found = torch.bmm(weights.flatten(0, 1), values.flatten(0, 1))
    return found.view((*weights.shape[:3], values.shape[3]))


def make_kernel(dtype: torch.dtype) -> Kernel:
    """Return the faster way for this CPU."""
    if dtype == torch.bfloat16 and has_fast_bfloat16():
        return _Products(dtype)
    return _Fused()
