"""Compiles the GPU's kernels for an H100, where there need be none; prints a line of JSON each.

The interpreter shows what kernels compute, but not whether they compile, nor what shared memory
they take. To be run in a process of its own: whether Triton interprets is decided at its import.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from agentbus_torch import attention_kernels, row_kernels
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

BLOCK = 16
CPU = torch.device("cpu")


class H100:
    """What Triton asks of a driver before it launches anything."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_all(dtype: torch.dtype, size: int, heads: int, kv_heads: int) -> None:
    pool = torch.zeros(4, BLOCK, 2 * kv_heads, size, dtype=dtype)
    numbers = torch.zeros(5, 300, dtype=torch.int32)
    tables = torch.zeros(32, 64, dtype=torch.int32)
    rope = torch.zeros(8, size, dtype=dtype)
    qkv = torch.zeros(300, heads + 2 * kv_heads, size, dtype=dtype)
    query = row_kernels.turn_and_store(qkv, rope, rope, numbers[1], numbers[2], pool, kv_heads)
    out = torch.zeros(300, heads, size, dtype=dtype)
    for rows, splits in ((300, 1), (9, 8)):
        plan = attention_kernels.SplitPlan(rows, heads, size, shared=0, own=splits, device=CPU)
        wide = attention_kernels.tile_rows(rows * (heads // kv_heads), dtype)
        tiles = torch.zeros(8, 5, dtype=torch.int32)
        split = plan if splits > 1 else None
        attention_kernels.attend_tiles(query[:rows], pool, tables, tiles, wide, split, out[:rows])
    for rows in (1, 32):
        plan = attention_kernels.SplitPlan(rows, heads, size, shared=16, own=2, device=CPU)
        few, at = query[:rows], numbers
        attention_kernels.attend_shared(few, pool, tables, at[3], at[0], plan)
        attention_kernels.attend_rows(few, pool, tables, at[3], at[0], at[4], plan)
        attention_kernels.merge_splits(plan, out[:rows])
    row_kernels.silu_times(torch.zeros(2, 2 * 14336, dtype=dtype))
    x, norm, weight = (torch.zeros(n, 4096, dtype=dtype) for n in (1, 1, 512))
    row_kernels.rms_norm(x, norm[0], 1e-5)
    row_kernels.gemv(x, weight, norm=norm[0], eps=1e-5)
    row_kernels.gemv(x, weight, norm=norm[0], eps=1e-5, gated=True)
    row_kernels.gemv(x, weight, plus=torch.zeros(1, 512, dtype=dtype))


def main() -> None:
    run = JITFunction.run

    def compiled(kernel: Any, *args: Any, warmup: bool, **options: Any) -> Any:
        found = run(kernel, *args, warmup=True, **options)
        line = {
            "kernel": kernel.__name__,
            "bfloat16": any(a.dtype == torch.bfloat16 for a in args if isinstance(a, torch.Tensor)),
            "shared_bytes": found.metadata.shared,
            "tensor_cores": "mma" in found.asm["ptx"],
        }
        print(json.dumps(line), flush=True)
        return found

    driver.set_active(H100())
    JITFunction.run = compiled
    for dtype in (torch.bfloat16, torch.float32):
        for size in (64, 128, 256):
            compile_all(dtype, size, 32, 8)
        compile_all(dtype, 64, 9, 3)  # groups that are no power of 2: SmolLM2's, Qwen2's
        compile_all(dtype, 128, 28, 4)


if __name__ == "__main__":
    main()
