"""What the KV index hands out: leases, orders to copy, and figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .steps import Owner
from .tree import Node

__all__ = ["Computing", "Copy", "Lease", "PoolStats"]


class Copy(NamedTuple):
    """Order to copy the KV of the first `tokens` positions of block `source` into `target`."""

    source: int
    target: int
    tokens: int


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The pool, in blocks. `cached` ones are in the tree; `locked` ones cannot be evicted."""

    total: int
    free: int
    cached: int
    locked: int


class Lease:
    """The blocks of one running call.

    Position p is in block `blocks[p // block_size]`. The KV of the first `reused` positions is
    there once `copies` were performed; all blocks from the position `reused` on are the lease's
    own and may be written. What is reused, and the sources of copies, stay until the lease ends.
    """

    __slots__ = (
        "_node",
        "_owned_from",
        "_owner",
        "_tokens",
        "blocks",
        "copies",
        "namespace",
        "reused",
    )

    def __init__(
        self,
        namespace: bytes,
        node: Node | None,
        reused: int,
        blocks: list[int],
        copies: tuple[Copy, ...],
        owned: int,
        tokens: bytes = b"",
        owner: Owner | None = None,
    ) -> None:
        self.namespace = namespace
        self.reused = reused
        self.blocks = blocks
        self.copies = copies
        self._node = node
        self._owned_from = owned
        self._tokens = tokens
        self._owner = owner


class Computing(NamedTuple):
    """A running call that computes a prefix which another one needs.

    Once `lease` is committed whole, the first `length` tokens of the other call are cached.
    """

    lease: Lease
    length: int
