"""What one step computes: rows of tokens, of one sequence or of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .transfer import upload

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
    """Their ids; in a batch with `Batch.behind`, where in that they stand."""
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


class Batch:
    """Rows of tokens, part after part; parts of one row stand first, in the order of their slots.

    Its tensors are made when they are first asked for: a CUDA graph has its own.
    """

    def __init__(
        self, parts: tuple[Part, ...], device: torch.device, behind: Tensor | None = None
    ) -> None:
        self.parts = parts
        self._device = device
        self.behind = behind
        """Ids [rows of the step before] on the device, which the host has not read yet; what the
        parts have as tokens says which."""

    @cached_property
    def tokens(self) -> Tensor:
        """[rows]"""
        tokens = self._upload([token for part in self.parts for token in part.tokens])
        return tokens if self.behind is None else self.behind[tokens]

    @cached_property
    def positions(self) -> Tensor:
        """[rows]"""
        return self._upload([p for part in self.parts for p in range(part.start, part.end)])

    @cached_property
    def wanted(self) -> Tensor:
        """[rows whose hidden states are wanted]"""
        wanted: list[int] = []
        end = 0
        for part in self.parts:
            end += part.rows
            wanted += range(end - part.wanted, end)
        return self._upload(wanted)

    def _upload(self, numbers: list[int]) -> Tensor:
        return upload(numbers, torch.int64, self._device)


def make_batch(
    parts: Sequence[Part], device: torch.device, *, behind: Tensor | None = None
) -> Batch:
    """Lay parts out as a batch."""
    ordered = sorted(parts, key=lambda part: (part.rows > 1, part.slot))
    return Batch(tuple(ordered), device, behind)


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
