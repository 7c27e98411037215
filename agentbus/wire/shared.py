"""Payloads in shared memory: what a reference to one says, and the books that both sides keep.

Each side of a link lends the other blocks of its arenas. A block holds one payload, from when the
lender places it there until the borrower sends RELEASE; its generation, counted from 1, is never
reused on the link. Where the memory comes from is the transport's business.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ..errors import FrameTooLarge, MalformedFrame

__all__ = [
    "BLOCK_ALIGN",
    "NO_SHARING",
    "BlockTable",
    "Loan",
    "Reference",
    "SharedPayloads",
    "check_loan",
    "note_written",
    "read_reference",
]

BLOCK_ALIGN: Final = 4096
"""Blocks begin at pages, so that one can be dropped from memory without its neighbours."""
_FIELDS: Final = (str, int, int, int)


@dataclass(frozen=True, slots=True)
class Reference:
    """Stands for a payload that is in shared memory."""

    arena: str
    offset: int
    size: int
    generation: int

    def __len__(self) -> int:
        return 0

    def pack(self) -> tuple[str, int, int, int]:
        """Return what the header says in place of a size."""
        return self.arena, self.offset, self.size, self.generation


@dataclass(slots=True)
class Loan:
    """A block that a peer lent, for as long as views of it live."""

    offset: int
    size: int
    generation: int
    written: bool = False
    """Whether this process may have written to its own view of the block."""


def note_written(view: memoryview) -> None:
    """Note that a view, though read-only, was given to someone who may write all the same."""
    loan = getattr(view.obj, "loan", None)
    if isinstance(loan, Loan):
        loan.written = True


def read_reference(fields: tuple[Any, ...]) -> Reference:
    """Read what stands in a header in place of a payload's size.

    Raises:
        MalformedFrame: it is no reference.
    """
    if tuple(map(type, fields)) != _FIELDS:
        raise MalformedFrame("a part's size is neither a size nor a reference")
    return Reference(*fields)


def check_loan(reference: Reference, last: int, arena_bytes: int, limit: int) -> Loan:
    """Return the loan that a reference makes.

    Args:
        reference: what the peer sent.
        last: the generation of the peer's latest loan.
        arena_bytes: size of the arena.
        limit: how far into an arena this process maps, in bytes.

    Raises:
        FrameTooLarge: it reaches beyond the limit.
        MalformedFrame: it reaches beyond the arena, is empty, or its generation is not new.
    """
    offset, size = reference.offset, reference.size
    if offset < 0 or size <= 0 or offset % BLOCK_ALIGN or offset + size > arena_bytes:
        raise MalformedFrame("a reference reaches beyond its arena")
    if offset + size > limit:
        raise FrameTooLarge("a payload in shared memory", offset + size, limit)
    if reference.generation <= last:
        raise MalformedFrame(f"loan {reference.generation} came after loan {last}")
    return Loan(offset, size, reference.generation)


class BlockTable:
    """Which parts of an arena are lent. First fit, so that what was used before is used again."""

    __slots__ = ("_blocks", "_capacity", "_last", "_offsets")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._blocks: list[tuple[int, int]] = []
        """Offset and end of what is lent, in the order of offsets."""
        self._offsets: dict[int, int] = {}
        """By generation."""
        self._last = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def take(self, size: int) -> tuple[int, int] | None:
        """Return offset and generation of a new block; None if there is no room."""
        start = 0
        for index, (offset, end) in enumerate([*self._blocks, (self._capacity, 0)]):
            if offset - start >= size:
                self._blocks.insert(index, (start, start + size + -size % BLOCK_ALIGN))
                self._last += 1
                self._offsets[self._last] = start
                return start, self._last
            start = end
        return None

    def free(self, generation: int) -> None:
        """End a loan.

        Raises:
            MalformedFrame: there is no such loan, or it has ended.
        """
        offset = self._offsets.pop(generation, None)
        if offset is None:
            raise MalformedFrame(f"loan {generation} is released, but not lent")
        del self._blocks[bisect_left(self._blocks, (offset, 0))]


class SharedPayloads(Protocol):
    """The shared memory of one link, as session and link use it."""

    @property
    def share_from(self) -> int:
        """Payloads from this size on are to be placed, in bytes."""
        ...

    def resolve(self, reference: Reference) -> memoryview:
        """Return a read-only view of what a peer placed. When it and all that views it is gone, the
        loan ends.

        Raises:
            ProtocolError: the peer lent no such thing.
        """
        ...

    def released(self, generation: int) -> None:
        """Take a block back that the peer no longer views.

        Raises:
            MalformedFrame: it was not lent.
        """
        ...

    def offered(self, address: int, size: int) -> None:
        """The peer sets memory of its own apart, 0 bytes or more, for this process to write to.

        Raises:
            MalformedFrame: it said so before, or this link shares none.
        """
        ...


class _NoSharing:
    """Of a link that shares no memory."""

    __slots__ = ()
    share_from = sys.maxsize

    def resolve(self, reference: Reference) -> memoryview:
        raise MalformedFrame("this link shares no memory")

    def released(self, generation: int) -> None:
        raise MalformedFrame("this link shares no memory")

    def offered(self, address: int, size: int) -> None:
        raise MalformedFrame("this link shares no memory")


NO_SHARING: Final[SharedPayloads] = _NoSharing()
