"""The threads that torch's OpenMP keeps."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["let_threads_go"]

_SOFT = 1
"""`omp_pause_soft` of OpenMP 5.0: settings are kept."""


def let_threads_go() -> None:
    """End the threads that computed with this one; its next operation starts them anew, in some 50 µs.

    OpenMP counts them even while they sleep, and once a process has more than there are cores its
    threads no longer spin for one another: another engine's operations, each of which waits for its
    threads, take nearly twice their time.
    """
    pause = _pause()
    if pause is not None:
        pause(_SOFT)


@functools.cache
def _pause() -> Callable[[int], int] | None:
    """Return `omp_pause_resource_all` of the OpenMP that torch brought; None if it brought none."""
    for library in sorted((Path(torch.__file__).parent / "lib").glob("lib[gi]*omp*")):
        try:  # only if it is in use: a second OpenMP would fight the first for its cores
            loaded = ctypes.CDLL(str(library), mode=os.RTLD_NOW | os.RTLD_NOLOAD)
            found: Callable[[int], int] = loaded.omp_pause_resource_all
        except (OSError, AttributeError):
            continue
        return found
    return None
