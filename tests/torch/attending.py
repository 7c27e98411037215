"""Attention backends of a CPU, checked step by step against the plain formula."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from agentbus_torch.attention_cpu import WindowAttention
from agentbus_torch.attention_native import NativeAttention
from agentbus_torch.batch import Part, make_batch
from agentbus_torch.cpu_kernels import CPUKernels, attention_kernels
from agentbus_torch.kv import KVPool, KVShape
from agentbus_torch.rope import Rope

SHAPE = KVShape(layers=2, kv_heads=2, head_size=8, block_size=4)
WIDE = KVShape(layers=2, kv_heads=2, head_size=64, block_size=4)
GROUP = 3
CPU = torch.device("cpu")


def kernels(head_size: int = 64) -> CPUKernels:
    """Return the kernels; skip a test where there are none."""
    found = attention_kernels(torch.bfloat16, head_size, 1)
    if found is None:
        pytest.skip("there is no C compiler, or no AVX-512 BF16")
    return found


@dataclass
class Attending:
    """A backend whose second layer slides, and what was said to it in its first, by slot."""

    pool: KVPool
    attention: WindowAttention | NativeAttention
    group: int
    tolerance: float
    raised: float = 0.0
    """Added to values: what weights sum up to shows."""
    said: dict[int, torch.Tensor] = field(default_factory=dict)

    def part(self, slot: int, rows: int, blocks: Sequence[int] = ()) -> Part:
        """Return the next rows of a slot."""
        shape = (0, 2 * self.pool.shape.kv_heads, self.pool.shape.head_size)
        said = self.said.setdefault(slot, torch.empty(shape, dtype=self.pool.blocks.dtype))
        return Part(slot, blocks, len(said), (1,) * rows, wanted=rows)

    def step(self, parts: Sequence[Part], *, sees: int | None = None) -> None:
        """Attend with random rows, in the first layer and, with `sees`, in the second."""
        shape, dtype = self.pool.shape, self.pool.blocks.dtype
        batch = make_batch(parts, CPU)
        self.attention.prepare(batch)
        rows = len(batch.tokens)
        query = torch.randn(rows, shape.kv_heads * self.group, shape.head_size, dtype=dtype)
        pairs = torch.randn(rows, 2 * shape.kv_heads, shape.head_size, dtype=dtype)
        pairs[:, shape.kv_heads :] += self.raised
        slid = self.attention.attend(1, torch.cat((query, pairs), 1))
        found = self.attention.attend(0, torch.cat((query, pairs), 1))
        row = 0
        for part in batch.parts:
            mine = slice(row, row + part.rows)
            row += part.rows
            seen = torch.cat((self.said[part.slot], pairs[mine]))
            self.said[part.slot] = seen
            self._check(found[mine], query[mine], seen, part, 0)
            if sees is not None:
                self._check(slid[mine], query[mine], seen, part, sees)

    def _check(
        self, found: torch.Tensor, query: torch.Tensor, seen: torch.Tensor, part: Part, sees: int
    ) -> None:
        right = expected(query, seen, part.start, sees)
        error = (found.double() - right).abs().max()
        assert error < self.tolerance, (part.slot, part.start, part.rows, sees)


def expected(query: torch.Tensor, seen: torch.Tensor, start: int, sees: int = 0) -> torch.Tensor:
    """Attend with rows from position `start` on, to `seen`: [positions, 2 * kv_heads, size]."""
    rows, positions, heads = len(query), len(seen), seen.shape[1] // 2
    group = query.shape[1] // heads
    keys = seen[:, :heads].repeat_interleave(group, 1).double()
    values = seen[:, heads:].repeat_interleave(group, 1).double()
    scores = torch.einsum("rhd,phd->hrp", query.double(), keys) / math.sqrt(query.shape[2])
    own, others = torch.arange(start, start + rows)[:, None], torch.arange(positions)
    hidden = (others > own) | (others <= own - (sees or positions))
    weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
    return torch.einsum("hrp,phd->rhd", weights, values).reshape(rows, -1)


def unturned(size: int, dtype: torch.dtype) -> Rope:
    """Return factors that leave queries and keys as they are."""
    ones = torch.ones(3000, size, dtype=dtype)
    return Rope(ones, torch.zeros_like(ones))


def attending(kind: str, *, sees: int = 0, slots: int = 4, blocks: int = 64) -> Attending:
    """Return a backend: `float32` and `bfloat16` of torch's operations, or the `kernels`."""
    shape = WIDE if kind == "kernels" else SHAPE
    dtype = torch.float32 if kind == "float32" else torch.bfloat16
    pool = KVPool(shape, blocks, dtype=dtype, device=CPU)
    for layer in pool.layers:
        layer.normal_()
    rope = unturned(shape.head_size, dtype)
    sliding = [0, sees]
    backend: WindowAttention | NativeAttention
    if kind == "kernels":
        heads = shape.kv_heads * GROUP
        backend = NativeAttention(
            pool, rope, kernels(), heads=heads, slots=slots, positions=3000, sliding=sliding
        )
    else:
        backend = WindowAttention(pool, rope, slots=slots, positions=3000, sliding=sliding)
    return Attending(pool, backend, GROUP, 1e-5 if kind == "float32" else 2e-2)
