"""Memory of a CPU that torch would not take as it is wanted here."""

from __future__ import annotations

import contextlib
import mmap
import sys
from math import prod
from typing import Final

import torch
from torch import Tensor

__all__ = ["HugePages", "empty_as_used"]

_MAPPED_BYTES: Final = 64 << 20
_ALIGN_BYTES: Final = 64
_NORESERVE: Final = 0x4000
"""MAP_NORESERVE of Linux on x86-64 and ARM, which `mmap` names from Python 3.13 on."""


class HugePages:
    """Gives out memory in huge pages, for what is read whole for every token.

    It would cross thousands of pages otherwise, and looking these up costs a CPU as much as a third
    of its memory's bandwidth. Memory is never taken back singly: it goes with the last tensor on its
    mapping. Where the system has no huge pages it is plain memory. Not for several threads at once.
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


def empty_as_used(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return memory of which only what is written is ever taken; it may be more than there is.

    Raises:
        MemoryError: not even addresses are left.
    """
    count = prod(shape)
    if not count:
        return torch.empty(shape, dtype=dtype)
    mapping = _mapped(count * dtype.itemsize, _NORESERVE)
    _advise(mapping, "MADV_NOHUGEPAGE")  # of which a whole one would be taken
    return torch.frombuffer(mapping, dtype=dtype, count=count).view(shape)


def _map(size: int) -> mmap.mmap:
    mapping = _mapped(size)
    _advise(mapping, "MADV_HUGEPAGE")
    return mapping


def _advise(mapping: mmap.mmap, advice: str) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a kernel may be built without huge pages
            mapping.madvise(getattr(mmap, advice))


def _mapped(size: int, flags: int = 0) -> mmap.mmap:
    try:
        if sys.platform != "linux":
            return mmap.mmap(-1, size)
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | flags)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"there are no {size} bytes of memory") from error
