"""Windows: the KV of each running sequence in one stretch of memory, for attention on a CPU.

Products and fused attention read keys and values in place, but want them contiguous by position:
gathering blocks for every token would move the whole KV once more. So blocks are copied into a
window when a sequence opens, and out when it is saved. A window remembers which blocks it mirrors:
the next call of the same conversation copies only what differs, in practice next to nothing, and
the time to its first token is that of its new tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from agentbus.errors import MisuseError
from agentbus.kv import Copy

from .batch import Batch
from .kv import KVPool
from .memory import empty_as_used

__all__ = ["Windowed", "Windows"]

_FIRST_POSITIONS = 8192
"""Positions that windows begin with; they double as longer sequences come. Memory is only taken as
it is used, and to make windows longer is to copy them: a call would wait for that."""

_CLEARED_POSITIONS = 256
"""Positions that are cleared at once, where a shorter sequence is read as far as a longer one."""


@dataclass(slots=True)
class _Window:
    """One slot. `mirrored` are the blocks, with their versions, whose content it holds."""

    mirrored: list[tuple[int, int]]
    held: int = 0
    """Positions of it that matter."""
    cleared: int = 0
    """Positions, from the first on, that hold what matters or zeros; the rest may hold anything."""
    is_open: bool = False
    last_used: int = 0


class Windows:
    """As many windows as sequences may run. They take memory as they are used.

    `layers[n]` is [slots, 2 * kv_heads, capacity, head_size]: a sequence's keys, then its values,
    each head's positions in a row.
    """

    def __init__(self, pool: KVPool, *, slots: int, positions: int) -> None:
        """Make `slots` windows of up to `positions` tokens each."""
        self._size = pool.shape.block_size
        self._pool = pool
        self._stored = pool.blocks.flatten(1, 2)
        self.positions = positions
        """Most tokens of a sequence."""
        self._limit = -(-positions // self._size) * self._size
        self._slots = [_Window([]) for _ in range(slots)]
        self._clock = 0
        self.capacity = 0
        """Positions for which there is memory in each window."""
        self._memory = self._made(0)
        self.layers: list[Tensor] = []

    def open(self, blocks: Sequence[int], length: int, copies: Sequence[Copy]) -> int:
        """Choose the free window that mirrors most of these blocks, and copy the rest."""
        wanted = self._pool.versioned(self._sources(blocks, length, copies))
        free = [number for number, window in enumerate(self._slots) if not window.is_open]
        if not free:
            raise MisuseError("all slots are taken")

        def worth(slot: int) -> tuple[int, bool, int, int]:
            window = self._slots[slot]
            shared = _shared(window.mirrored, wanted)
            return shared, not window.mirrored, -window.last_used, -slot

        slot = max(free, key=worth)
        self._load(slot, wanted, length)
        self._slots[slot].is_open = True
        return slot

    def reopen(self, slot: int, blocks: Sequence[int], length: int, copies: Sequence[Copy]) -> None:
        """Mirror other blocks of the same content; what lies in the same ones is not copied."""
        self._load(slot, self._pool.versioned(self._sources(blocks, length, copies)), length)

    def save(self, slot: int, blocks: Sequence[int], first: int, length: int) -> None:
        """Copy positions up to `length` into the blocks from number `first` on."""
        last = -(-length // self._size)
        if last <= first:
            return
        for stored, mirrored in self._pairs(slot, blocks[first:last], first):
            stored.copy_(mirrored)
        self._slots[slot].mirrored = self._pool.versioned(blocks[:last])

    def close(self, slot: int, *, keep: bool) -> None:
        """Free a window; unless `keep`, nothing of it is used again."""
        window = self._slots[slot]
        self._clock += 1
        window.is_open = False
        window.last_used = self._clock
        if not keep:
            window.mirrored = []
        window.held = len(window.mirrored) * self._size

    def hold(self, slot: int, length: int) -> None:
        """Say that positions up to `length` are being written, for which there is memory."""
        window = self._slots[slot]
        window.held = max(window.held, length)
        window.cleared = max(window.cleared, window.held)

    def clear(self, slot: int, length: int) -> None:
        """Let a sequence be read up to `length`, beyond its end: what is there are zeros.

        Masked scores of what earlier sequences left would not do: none of a number times a weight
        of 0 is none of a number.
        """
        window = self._slots[slot]
        if length <= window.cleared:
            return
        stride = _CLEARED_POSITIONS
        cleared = min(self.capacity, -(-length // stride) * stride)
        self._memory[:, slot, :, window.cleared : cleared].zero_()
        window.cleared = cleared

    def reach(self, positions: int) -> None:
        """Make windows hold that many positions."""
        if positions <= self.capacity:
            return
        least = 1 << (positions - 1).bit_length()
        try:
            grown = self._made(max(least, _FIRST_POSITIONS))
        except MemoryError:  # some systems count what is not used yet
            grown = self._made(least)
        for number, window in enumerate(self._slots):
            if window.is_open:
                grown[:, number, :, : window.held] = self._memory[:, number, :, : window.held]
            else:  # the pool has it: who goes on with it waits for its copy alone
                window.mirrored, window.held = [], 0
            window.cleared = window.held
        self._memory, self.layers = grown, list(grown.unbind())
        self.capacity = grown.shape[3]

    def _made(self, capacity: int) -> Tensor:
        shape = self._pool.shape
        capacity = min(self._limit, -(-capacity // self._size) * self._size)
        size = (len(self._slots), 2 * shape.kv_heads, capacity, shape.head_size)
        return empty_as_used((shape.layers, *size), self._stored.dtype)

    def _sources(self, blocks: Sequence[int], length: int, copies: Sequence[Copy]) -> list[int]:
        return [*blocks[: length // self._size], *(copy.source for copy in copies)]

    def _load(self, slot: int, wanted: list[tuple[int, int]], length: int) -> None:
        window, size = self._slots[slot], self._size
        self.reach(len(wanted) * size)
        kept = _shared(window.mirrored, wanted)
        window.mirrored = []  # should copying break, nothing of it is used
        for stored, mirrored in self._pairs(slot, [block for block, _ in wanted[kept:]], kept):
            mirrored.copy_(stored)
        window.mirrored = wanted
        window.held = window.cleared = length

    def _pairs(self, slot: int, blocks: Sequence[int], at: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield where blocks lie in the pool, and where in a window from block number `at` on.

        Both are [layers, 2 * kv_heads, positions, head_size], of neighbours at once.
        """
        for begin, end in _runs(blocks):
            stored = self._stored[
                :, blocks[begin] * self._size : (blocks[end - 1] + 1) * self._size
            ]
            place = slice((at + begin) * self._size, (at + end) * self._size)
            yield stored.transpose(1, 2), self._memory[:, slot, :, place]


class Windowed:
    """What there is to attention over windows besides attending."""

    def __init__(self, windows: Windows) -> None:
        """Attend over these."""
        self._windows = windows

    def open(self, blocks: Sequence[int], length: int, copies: Sequence[Copy]) -> int:
        """See `Attention.open`."""
        return self._windows.open(blocks, length, copies)

    def reopen(self, slot: int, blocks: Sequence[int], length: int, copies: Sequence[Copy]) -> None:
        """See `Attention.reopen`."""
        self._windows.reopen(slot, blocks, length, copies)

    def save(self, slot: int, blocks: Sequence[int], first: int, length: int) -> None:
        """See `Attention.save`."""
        self._windows.save(slot, blocks, first, length)

    def close(self, slot: int, *, keep: bool) -> None:
        """See `Attention.close`."""
        self._windows.close(slot, keep=keep)

    def _hold(self, batch: Batch) -> None:
        """Make room for a batch's rows: kernels write wherever they are told to."""
        end, most = max(part.end for part in batch.parts), self._windows.positions
        if end > most:
            raise MisuseError(f"a sequence may have {most} tokens here, not {end}")
        self._windows.reach(end)
        for part in batch.parts:
            self._windows.hold(part.slot, part.end)


def _runs(blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield where runs of neighbouring blocks begin and end."""
    begin = 0
    for end in range(1, len(blocks) + 1):
        if end == len(blocks) or blocks[end] != blocks[end - 1] + 1:
            yield begin, end
            begin = end


def _shared(left: Sequence[tuple[int, int]], right: Sequence[tuple[int, int]]) -> int:
    """Return how many items two lists have in common at their start."""
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count
