"""What one step computes: rows of tokens, of one sequence or of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Batch", "Part", "make_batch", "shared_blocks"]


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one sequence in a batch: its positions `start…start + rows`."""

    slot: int
    """Where the attention backend keeps the sequence."""
    blocks: Sequence[int]
    """The sequence's block table: position p is in block `blocks[p // block_size]`."""
    start: int
    tokens: Sequence[int]
    wanted: int
    """How many of the last rows' hidden states are asked for."""

    @property
    def rows(self) -> int:
        """How many rows the part has."""
        return len(self.tokens)

    @property
    def end(self) -> int:
        """The position behind the last row."""
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of tokens, part after part; parts of one row stand first, in the order of their slots."""

    parts: tuple[Part, ...]
    tokens: Tensor
    """[rows]"""
    positions: Tensor
    """[rows]"""
    wanted: Tensor
    """[rows whose hidden states are wanted]"""


def make_batch(parts: Sequence[Part], device: torch.device) -> Batch:
    """Lay parts out as a batch."""
    ordered = sorted(parts, key=lambda part: (part.rows > 1, part.slot))
    tokens: list[int] = []
    positions: list[int] = []
    wanted: list[int] = []
    for part in ordered:
        tokens += part.tokens
        positions += range(part.start, part.end)
        wanted += range(len(tokens) - part.wanted, len(tokens))
    rows = torch.tensor((tokens, positions), device=device)
    return Batch(
        tuple(ordered), rows[0], rows[1], torch.tensor(wanted, dtype=torch.int64, device=device)
    )


def shared_blocks(parts: Sequence[Part], block_size: int) -> int:
    """Return how many whole blocks, from the first on, the sequences of all parts have in common."""
    if not parts:
        return 0
    first = parts[0].blocks
    count = min(min(len(part.blocks), part.start // block_size) for part in parts)
    for part in parts[1:]:
        blocks = part.blocks
        while count and (blocks[count - 1] != first[count - 1] or blocks[:count] != first[:count]):
            count -= 1
    return count
