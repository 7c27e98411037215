"""Memory in huge pages: what is read whole for every token crosses thousands of pages otherwise, and
looking these up costs a CPU as much as a third of its memory's bandwidth."""

from __future__ import annotations

import contextlib
import mmap
import sys
from math import prod
from typing import Final

import torch
from torch import Tensor

__all__ = ["HugePages"]

_MAPPED_BYTES: Final = 64 << 20
_ALIGN_BYTES: Final = 64


class HugePages:
    """Gives out memory that is never taken back singly: it goes with the last tensor on its mapping.

    Where the system has no huge pages it is plain memory. Not for several threads at once.
    """

    def __init__(self) -> None:
        self._mapping = mmap.mmap(-1, mmap.PAGESIZE)
        self._used = mmap.PAGESIZE

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return memory for a tensor, its first bytes aligned to a cache line.

        Raises:
            MemoryError: there is none.
        """
        count = prod(shape)
        size = count * dtype.itemsize
        if self._used + size > len(self._mapping):
            self._mapping, self._used = _map(max(size, _MAPPED_BYTES)), 0
        found = torch.frombuffer(self._mapping, dtype=dtype, count=count, offset=self._used)
        self._used += size + -size % _ALIGN_BYTES
        return found.view(shape)


def _map(size: int) -> mmap.mmap:
    try:
        if sys.platform != "linux":
            return mmap.mmap(-1, size)
        mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"there are no {size} bytes of memory") from error
    with contextlib.suppress(OSError):  # a kernel may be built without them
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return mapping
