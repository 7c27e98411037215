"""Grouped-query attention of plain tensors on a CPU.

There are two ways to compute it, chosen by what was measured on a CPU with AVX-512: torch's fused
attention, and plain products around a softmax. In bfloat16 oneDNN's products are two to three times
as fast as those within the fused attention; in float32 the two are equal, and the fused one needs
no memory for scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from .linear import has_fast_bfloat16

__all__ = ["Kernel", "Run", "make_kernel"]

_FEW_POSITIONS = 1024
"""Positions, of all sequences of a group, under which one fused call beats three products."""

_SHARED_POSITIONS = 2048
"""Positions of a common prefix, counted once for each sequence, from which it is read once."""

_BLOCK_ROWS = 64
"""Rows of a chunk whose scores are in memory at once: they should stay in the CPU's cache."""


class Run(NamedTuple):
    """Keys and values of sequences that lie one behind the other."""

    keys: Tensor
    """[count, kv_heads, longest, size]"""
    values: Tensor
    """The same."""
    mask: Tensor | None
    """Added to scores, [count, 1, 1, longest]; None if all rows see all."""


class Kernel(Protocol):
    """Grouped-query attention: `group` heads share the keys and values of one."""

    def singles(self, query: Tensor, runs: Sequence[Run], shared: int) -> Tensor:
        """Attend with one row of each sequence, run after run.

        Args:
            query: [count of all runs, kv_heads, group, size]; so is the result.
            shared: positions, from the first on, that are the same in all sequences and seen by
                all rows. Where it wins, they are read once.
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

    def singles(self, query: Tensor, runs: Sequence[Run], shared: int) -> Tensor:
        return _one_by_one(query, runs, self._run)

    def _run(self, query: Tensor, run: Run) -> Tensor:
        keys, values, mask = run
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

    def singles(self, query: Tensor, runs: Sequence[Run], shared: int) -> Tensor:
        if len(query) * shared >= _SHARED_POSITIONS:
            return self._siblings(query, runs, shared)
        return _one_by_one(query, runs, self._run)

    def _run(self, query: Tensor, run: Run) -> Tensor:
        if len(query) * run.keys.shape[2] < _FEW_POSITIONS:
            return self._fused.singles(query, [run], 0)
        return _weighted(_scores(query, run.keys, run.mask).softmax(-1), run.values)

    def _siblings(self, query: Tensor, runs: Sequence[Run], shared: int) -> Tensor:
        """Let all rows meet the prefix that they share in one product, one after the other what is
        their own (cascade attention, as in Hydragen and FlashInfer, with one softmax over both).
        """
        count, kv_heads, group, size = query.shape
        together = (kv_heads, count * group, -1)
        keys, values = runs[0].keys[0], runs[0].values[0]
        common = torch.baddbmm(
            query.new_empty(1, 1, 1),
            query.transpose(0, 1).reshape(together),
            keys[:, :shared].contiguous().transpose(1, 2),
            beta=0,
            alpha=1 / math.sqrt(size),
        )
        rest = [_behind(run, shared) for run in runs]
        own = _side_by_side(
            [_scores(rows, *run[::2]) for rows, run in zip(_rows(query, rest), rest, strict=True)]
        )
        scores = torch.cat((common, own.transpose(0, 1).reshape(together)), -1)
        weights = scores.softmax(-1)
        apart = (kv_heads, count, group, -1)
        found = torch.bmm(weights[..., :shared], values[:, :shared]).view(apart)
        own_weights = weights[..., shared:].view(apart).transpose(0, 1)
        found = found.transpose(0, 1).contiguous()
        for rows, mine, run in zip(_rows(found, rest), _rows(own_weights, rest), rest, strict=True):
            rows += _weighted(mine[..., : run.values.shape[2]], run.values)
        return found

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


def _one_by_one(
    query: Tensor, runs: Sequence[Run], attend: Callable[[Tensor, Run], Tensor]
) -> Tensor:
    if len(runs) == 1:
        return attend(query, runs[0])
    rows = _rows(query, runs)
    return torch.cat([attend(*both) for both in zip(rows, runs, strict=True)])


def _rows(of: Tensor, runs: Sequence[Run]) -> Sequence[Tensor]:
    """Return each run's rows."""
    return torch.split(of, [len(run.keys) for run in runs])


def _behind(run: Run, shared: int) -> Run:
    mask = None if run.mask is None else run.mask[..., shared:]
    return Run(run.keys[:, :, shared:], run.values[:, :, shared:], mask)


def _side_by_side(scores: Sequence[Tensor]) -> Tensor:
    """Join scores [count, kv_heads, group, longest] of runs; where one is shorter, nothing is seen."""
    if len(scores) == 1:
        return scores[0]
    widest = max(one.shape[-1] for one in scores)
    return torch.cat(
        [functional.pad(one, (0, widest - one.shape[-1]), value=-math.inf) for one in scores]
    )


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
