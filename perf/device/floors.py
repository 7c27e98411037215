"""What the device itself can do, measured in the same run: the floors of the figures."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

__all__ = ["bandwidth", "best_of", "matmul_rate", "stated_peak", "synchronize"]

_PEAKS = {"H100": 989e12, "H200": 989e12}
"""Dense bfloat16 operations a second that the maker states, by a part of the device's name."""
_REPEATS = 10
_IN_A_ROW = 4
"""Runs between two looks at the clock, so that the wait for the device counts for little."""


def synchronize(device: torch.device) -> None:
    """Wait for all that the device was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_of(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a run in the fastest of some series, after one that does not count."""
    taken = []
    for _ in range(_REPEATS + 1):
        synchronize(device)
        begun = time.perf_counter()
        for _ in range(_IN_A_ROW):
            function()
        synchronize(device)
        taken.append((time.perf_counter() - begun) / _IN_A_ROW)
    return min(taken[1:])


def bandwidth(device: torch.device, size: int) -> float:
    """Return the bytes a second at which the device reads `size` bytes, larger than its caches."""
    data = torch.rand(size // 4, dtype=torch.float32, device=device)  # zeros cost less
    return size / best_of(lambda: data.sum(), device)


def matmul_rate(device: torch.device, side: int) -> float:
    """Return operations a second of one large product of square bfloat16 matrices."""
    a = torch.randn(side, side, device=device).to(torch.bfloat16)
    return 2.0 * side**3 / best_of(lambda: a @ a, device)


def stated_peak(name: str) -> float | None:
    """Return the operations a second that the maker of a device of that name states."""
    return next((peak for part, peak in _PEAKS.items() if part in name), None)
