"""The GPU's kernels against plain torch: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import Tensor

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
pytest.importorskip("triton", reason="Triton is not installed (it comes with torch for CUDA)")

from agentbus_torch.attention_kernels import (
    EVERYTHING,
    SplitPlan,
    attend_rows,
    attend_shared,
    attend_tiles,
    merge_splits,
    tile_rows,
)
from agentbus_torch.row_kernels import gemv, rms_norm, silu_times, turn_and_store

# What Triton's interpreter does with numbers, numpy is about to refuse (it needs numpy under 2.4).
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0")

DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
BLOCK = 16


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def each(rows: int) -> Tensor:
    return torch.arange(rows, dtype=torch.int32, device=DEVICE)


def reference(query: Tensor, pool: Tensor, table: Tensor, length: int, first: int = 0) -> Tensor:
    """Attention of [heads, size] over positions `first…length`, the slow way."""
    kv_heads = pool.shape[2] // 2
    flat = pool[table.long()].flatten(0, 1)[first:length]
    group = query.shape[0] // kv_heads
    keys = flat[:, :kv_heads].repeat_interleave(group, 1)
    values = flat[:, kv_heads:].repeat_interleave(group, 1)
    scores = torch.einsum("hd,phd->hp", query, keys) / math.sqrt(query.shape[-1])
    return torch.einsum("hp,phd->hd", scores.softmax(-1), values)


@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(4, 2, 16), (9, 3, 32), (8, 8, 64)])
def test_rows_attend_to_their_own_blocks_alone(heads: int, kv_heads: int, size: int) -> None:
    pool = some(40, BLOCK, 2 * kv_heads, size)
    lengths = [1, 16, 17, 75, 160]
    tables = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:30].view(-1)
    tables = torch.stack([tables.roll(-3 * n)[:10] for n in range(5)]).int().to(DEVICE)
    query = some(5, heads, size, seed=2)
    plan = SplitPlan(5, heads, size, shared=0, own=4, device=DEVICE)
    counts = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
    attend_rows(query, pool, tables, each(5), torch.zeros_like(counts), counts, plan)
    found = torch.empty_like(query)
    merge_splits(plan, found)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(
            found[row], reference(query[row], pool, tables[row], length), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize(("together", "own"), [(2, 2), (4, 1), (1, 2)])
def test_a_shared_prefix_is_read_once_and_gives_the_same(together: int, own: int) -> None:
    heads, kv_heads, size, rows, prefix = 6, 3, 32, 7, 80
    pool = some(60, BLOCK, 2 * kv_heads, size)
    shared = list(range(5))
    tables = torch.tensor(
        [[*shared, *range(5 + 3 * row, 8 + 3 * row)] for row in range(rows)],
        dtype=torch.int32,
        device=DEVICE,
    )
    lengths = torch.tensor([prefix + 1 + 6 * row for row in range(rows)], dtype=torch.int32)
    lengths = lengths.to(DEVICE)
    query = some(rows, heads, size, seed=3)
    plan = SplitPlan(rows, heads, size, shared=together, own=own, device=DEVICE)
    first = torch.full_like(lengths, prefix)
    attend_shared(query, pool, tables, each(len(query)), first, plan)
    attend_rows(query, pool, tables, each(rows), first, lengths, plan)
    found = torch.empty_like(query)
    merge_splits(plan, found)
    for row in range(rows):
        wanted = reference(query[row], pool, tables[row], int(lengths[row]))
        torch.testing.assert_close(found[row], wanted, atol=1e-4, rtol=1e-4)


def test_a_shared_prefix_may_be_empty() -> None:
    pool, query = some(4, BLOCK, 4, 16), some(2, 4, 16, seed=5)
    tables = torch.tensor([[0, 1], [2, 3]], dtype=torch.int32, device=DEVICE)
    lengths = torch.tensor([20, 32], dtype=torch.int32, device=DEVICE)
    plan = SplitPlan(2, 4, 16, shared=2, own=2, device=DEVICE)
    nothing = torch.zeros_like(lengths)
    attend_shared(query, pool, tables, each(2), nothing, plan)
    attend_rows(query, pool, tables, each(2), nothing, lengths, plan)
    found = torch.empty_like(query)
    merge_splits(plan, found)
    for row, length in enumerate((20, 32)):
        torch.testing.assert_close(
            found[row], reference(query[row], pool, tables[row], length), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("sees", [1, 20, 64])
def test_rows_see_the_last_positions_alone_where_a_window_slides(sees: int) -> None:
    pool, query = some(20, BLOCK, 4, 16), some(3, 4, 16, seed=6)
    tables = torch.arange(18, dtype=torch.int32, device=DEVICE).view(3, 6)
    lengths = torch.tensor([5, 64, 90], dtype=torch.int32, device=DEVICE)
    plan = SplitPlan(3, 4, 16, shared=0, own=2, device=DEVICE)
    unread = torch.full_like(lengths, 80)
    attend_rows(query, pool, tables, each(3), unread, lengths, plan, sees=sees)
    found = torch.empty_like(query)
    merge_splits(plan, found)
    for row, length in enumerate((5, 64, 90)):
        wanted = reference(query[row], pool, tables[row], length, max(0, length - sees))
        torch.testing.assert_close(found[row], wanted, atol=1e-4, rtol=1e-4)


def attend_parts(
    query: Tensor,
    pool: Tensor,
    tables: Tensor,
    parts: list[tuple[int, int]],
    *,
    splits: int = 1,
    more_tiles: int = 0,
    sees: int = EVERYTHING,
) -> Tensor:
    """Attend from parts of prompts, (start, rows) each, one after the other."""
    _, heads, size = query.shape
    group = heads // (pool.shape[2] // 2)
    wide = tile_rows(max(rows for _, rows in parts) * group, query.dtype)
    tiles: list[tuple[int, int, int, int, int]] = []
    first = 0
    for number, (start, rows) in enumerate(parts):
        count = -(-rows * group // wide) + more_tiles
        tiles += [(number, start, rows, first, tile) for tile in range(count)]
        first += rows
    plan = None
    if splits > 1:
        plan = SplitPlan(len(query), heads, size, shared=0, own=splits, device=DEVICE)
    out = torch.full_like(query, torch.nan)
    numbers = torch.tensor(tiles, dtype=torch.int32, device=DEVICE)
    attend_tiles(query, pool, tables, numbers, wide, plan, out, sees=sees)
    if plan is not None:
        merge_splits(plan, out)
    return out


PARTS = [[(0, 1)], [(0, 16)], [(0, 70)], [(37, 5)], [(64, 33), (0, 9), (90, 17)]]


@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("sees", [EVERYTHING, 1, 7, 40])
@pytest.mark.parametrize("parts", PARTS)
def test_parts_of_prompts_see_what_stands_before_each_of_their_rows(
    parts: list[tuple[int, int]], sees: int, splits: int
) -> None:
    rows, heads, kv_heads = sum(count for _, count in parts), 6, 2
    pool, query = some(30, BLOCK, 2 * kv_heads, 16), some(rows, heads, 16, seed=7)
    tables = torch.arange(29, 2, -1, dtype=torch.int32).view(3, 9).to(DEVICE)
    out = attend_parts(query, pool, tables, parts, splits=splits, sees=sees)
    row = 0
    for number, (start, count) in enumerate(parts):
        for end in range(start + 1, start + count + 1):
            first = max(0, end - sees)
            wanted = reference(query[row], pool, tables[number], end, first)
            torch.testing.assert_close(out[row], wanted, atol=1e-4, rtol=1e-4)
            row += 1


def test_tiles_behind_a_part_write_nothing() -> None:
    pool, query = some(20, BLOCK, 4, 16), some(12, 4, 16)
    tables = torch.arange(20, dtype=torch.int32, device=DEVICE)[None]
    out = attend_parts(query, pool, tables, [(20, 7)], more_tiles=3)
    torch.testing.assert_close(out[:7], attend_parts(query[:7], pool, tables, [(20, 7)]))
    assert out[7:].isnan().all()


def test_keys_are_turned_and_stored_and_queries_turned_in_place() -> None:
    heads, kv_heads, size, rows = 4, 2, 16, 3
    qkv = some(rows, heads + 2 * kv_heads, size)
    angles = torch.outer(torch.arange(50.0), 1.0 / 10 ** torch.linspace(0, 1, size // 2))
    cosine = torch.cat((angles.cos(), angles.cos()), -1).to(DEVICE)
    sine = torch.cat((-angles.sin(), angles.sin()), -1).to(DEVICE)
    positions = torch.tensor([7, 0, 49], device=DEVICE)
    slots = torch.tensor([5, 33, 18], device=DEVICE)
    pool = torch.zeros(3, BLOCK, 2 * kv_heads, size, device=DEVICE)
    turned = qkv.clone()
    part = turned[:, : heads + kv_heads]
    c, s = cosine[positions][:, None], sine[positions][:, None]
    part.copy_(part * c + part.roll(size // 2, -1) * s)
    query = turn_and_store(qkv, cosine, sine, positions, slots, pool, kv_heads)
    torch.testing.assert_close(query, turned[:, :heads])
    stored = pool.view(-1, 2 * kv_heads, size)
    torch.testing.assert_close(stored[slots], turned[:, heads:])
    assert stored.count_nonzero() == stored[slots].count_nonzero()


def test_kernels_compile_for_an_h100_and_fit_its_multiprocessors() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    argv = [sys.executable, "-m", "tests.torch.compile_kernels"]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=600, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    attending = [line for line in lines if line["kernel"].startswith("_attend")]
    assert {line["kernel"] for line in attending} == {
        "_attend_rows",
        "_attend_shared",
        "_attend_tiles",
    }
    assert all(line["tensor_cores"] for line in attending if line["bfloat16"])
    assert max(line["shared_bytes"] for line in lines) <= 227 * 1024


def test_swiglu() -> None:
    both = some(3, 2 * 1500)
    gate, up = both.chunk(2, -1)
    torch.testing.assert_close(silu_times(both), torch.nn.functional.silu(gate) * up)


@pytest.mark.parametrize("size", [48, 576, 4096])
def test_rms_norm(size: int) -> None:
    x, weight = some(5, size), some(size, seed=1)
    wanted = torch.nn.functional.rms_norm(x, (size,), weight, 1e-5)
    torch.testing.assert_close(rms_norm(x, weight, 1e-5), wanted)


@pytest.mark.parametrize(("count", "size"), [(7, 48), (64, 576), (30, 4096), (4, 5000)])
@pytest.mark.parametrize("normed", [False, True])
def test_a_single_row_is_multiplied(count: int, size: int, normed: bool) -> None:
    x, weight, bias, other = some(1, size), some(count, size, seed=1), some(count), some(1, count)
    factor = some(size, seed=2) if normed else None
    before = torch.nn.functional.rms_norm(x, (size,), factor, 1e-2) if normed else x
    wanted = before @ weight.t()
    close = partial(torch.testing.assert_close, atol=1e-4 * math.sqrt(size), rtol=1e-4)
    close(gemv(x, weight, norm=factor, eps=1e-2), wanted)
    close(gemv(x, weight, norm=factor, eps=1e-2, bias=bias), wanted + bias)
    target = other.clone()
    found = gemv(x, weight, norm=factor, eps=1e-2, plus=target)
    close(found, wanted + other)
    assert found is target


@pytest.mark.parametrize("normed", [False, True])
def test_a_single_row_goes_through_a_swiglu(normed: bool) -> None:
    inner, size = 33, 576
    x, both = some(1, size), 0.05 * some(2 * inner, size, seed=1)
    factor = some(size, seed=2) if normed else None
    before = torch.nn.functional.rms_norm(x, (size,), factor, 1e-5) if normed else x
    gate, up = (before @ both.t()).chunk(2, -1)
    found = gemv(x, both, norm=factor, eps=1e-5, gated=True)
    torch.testing.assert_close(found, torch.nn.functional.silu(gate) * up, atol=1e-4, rtol=1e-4)
