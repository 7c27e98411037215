"""Attention on a CPU by kernels of ours, over the same windows as `attention_cpu`.

What a batch's rows see is laid out as a tree: rows that begin with the same blocks meet these
together, and then each what is its own (as in Hydragen, https://arxiv.org/abs/2402.05099, and its
trees in DeFT, https://arxiv.org/abs/2404.00242). The tree is cut into pieces that keep all threads
busy; the kernel merges what a row's pieces give.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .batch import Batch, Part, shared_blocks
from .cpu_kernels import CPUKernels, partial_size
from .kv import KVPool
from .native_types import NativeModel, Plan
from .rope import Rope
from .windows import Windowed, Windows

__all__ = ["NativeAttention", "Piece", "cut", "tree"]

_SHARED_POSITIONS = 128
"""Positions from which rows meet what they share together."""
_PIECE_ROWS = 64
_PIECE_POSITIONS = 256
"""Fewest positions of a piece that is cut off."""
_TASKS = 2
"""For each thread, at least: pieces of all heads of keys."""
_BLOCK = 64
"""Positions that the kernel takes at once."""

Rows = tuple[Part, range]
"""A part, and the numbers of its rows in the batch."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a batch, by number, that meet positions `first…end` of the window at `slot`."""

    rows: Sequence[int]
    slot: int
    first: int
    end: int


class NativeAttention(Windowed):
    """The `Attention` of CPUs with AVX-512 BF16, in bfloat16."""

    def __init__(
        self,
        pool: KVPool,
        rope: Rope,
        kernels: CPUKernels,
        *,
        heads: int,
        slots: int,
        positions: int,
        sliding: Sequence[int],
    ) -> None:
        """Make room for `slots` sequences of up to `positions` tokens each.

        Args:
            pool: of heads that `attention_kernels` has kernels for.
            kernels: this process's.
            heads: of queries.
            sliding: for each layer, how many positions a token sees, itself included; 0 for all.
        """
        super().__init__(Windows(pool, slots=slots, positions=positions))
        self._rope = rope
        self._kernels = kernels
        self._shape = pool.shape
        self._heads = heads
        self._sliding = array("i", (min(sees, positions) for sees in sliding))
        """As in the arguments; the kernels take 32 bits, a model's file may say any number."""
        self._scratch = torch.empty(0)
        self._plan = Plan()
        self._held: tuple[object, ...] = ()
        """What the plan points to."""

    def prepare(self, batch: Batch) -> None:
        """Lay out where the batch's rows go, and in which pieces they meet what they see."""
        self._hold(batch)
        slots, positions = array("i"), array("i")
        rows: list[Rows] = []
        for part in batch.parts:
            rows.append((part, range(len(slots), len(slots) + part.rows)))
            slots.extend([part.slot] * part.rows)
            positions.extend(range(part.start, part.end))
        threads = torch.get_num_threads()
        pieces = cut(tree(rows, self._shape.block_size), self._shape.kv_heads, threads)
        table, members, results = array("i"), array("i"), [array("i") for _ in slots]
        for piece in pieces:
            table.extend((len(members), len(piece.rows), piece.slot, piece.first, piece.end))
            for row in piece.rows:
                results[row].append(len(members))
                members.append(row)
        merged, partials = array("i", [0]), array("i")
        for numbers in results:
            partials.extend(numbers)
            merged.append(len(partials))
        needed = len(members) * self._heads * partial_size(self._shape.head_size)
        if self._scratch.numel() < needed:
            self._scratch = torch.empty(needed, dtype=torch.float32, device="cpu")
        window = self._windows.layers[0]
        tables = {
            "pieces": table,
            "members": members,
            "slots": slots,
            "positions": positions,
            "merged": merged,
            "partials": partials,
            "windows": array("Q", (layer.data_ptr() for layer in self._windows.layers)),
            "sees": self._sliding,
        }
        self._plan = Plan(
            **{name: numbers.buffer_info()[0] for name, numbers in tables.items()},
            cosine=self._rope.cosine.data_ptr(),
            sine=self._rope.sine.data_ptr(),
            scratch=self._scratch.data_ptr(),
            slot_stride=window.stride(0),
            head_stride=window.stride(1),
            count=len(pieces),
            rows=len(slots),
            results=len(members),
            heads=self._heads,
            kv_heads=self._shape.kv_heads,
            size=self._shape.head_size,
            threads=threads,
            amx=self._kernels.amx,
            scale=math.log2(math.e) / math.sqrt(self._shape.head_size),
        )
        self._held = tuple(tables.values())

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """See `Attention.attend`."""
        return self._kernels.attend(self._plan, layer, qkv)

    def compute(
        self, model: NativeModel, batch: Batch, *, scored: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute a whole model; see `CPUKernels.compute`."""
        self.prepare(batch)
        return self._kernels.compute(model, self._plan, batch.tokens, batch.wanted, scored=scored)


def tree(parts: Sequence[Rows], block_size: int) -> list[Piece]:
    """Return what parts meet together, as far as their block tables are the same, and apart."""
    return list(_branches(parts, 0, block_size))


def _branches(parts: Sequence[Rows], first: int, block_size: int) -> Iterator[Piece]:
    """Cut up what parts see from position `first` on, up to which they share everything."""
    if len(parts) == 1:
        ((part, rows),) = parts
        for n in range(0, part.rows, _PIECE_ROWS):
            some = rows[n : n + _PIECE_ROWS]
            yield Piece(some, part.slot, first, part.start + n + len(some))
        return
    blocks = shared_blocks([part for part, _ in parts], block_size)
    shared = blocks * block_size
    if shared - first >= _SHARED_POSITIONS:
        together = list(itertools.chain.from_iterable(rows for _, rows in parts))
        for n in range(0, len(together), _PIECE_ROWS):
            yield Piece(together[n : n + _PIECE_ROWS], parts[0][0].slot, first, shared)
        first = shared
    apart: dict[int, list[Rows]] = {}
    for number, (part, rows) in enumerate(parts):
        whole = blocks < len(part.blocks) and shared + block_size <= part.start
        apart.setdefault(part.blocks[blocks] if whole else ~number, []).append((part, rows))
    for alike in apart.values():
        yield from _branches(alike, first, block_size)


def cut(pieces: Sequence[Piece], kv_heads: int, threads: int) -> list[Piece]:
    """Cut long pieces by position until there are enough for all threads; the longest come first."""
    count = len(pieces) * kv_heads
    cuts = -(-_TASKS * threads // count)
    while cuts > 1 and count * cuts % threads:
        cuts += 1
    made: list[Piece] = []
    for piece in pieces:
        length = piece.end - piece.first
        few = max(1, min(cuts, length // _PIECE_POSITIONS))
        step = -(-length // (few * _BLOCK)) * _BLOCK
        made += [
            replace(piece, first=first, end=min(first + step, piece.end))
            for first in range(piece.first, piece.end, step)
        ]
    return sorted(made, key=lambda piece: len(piece.rows) * (piece.first - piece.end))
