"""A radix tree over token ids whose nodes refer to KV blocks. It allocates and evicts nothing.

The tree is token-granular, as in SGLang's RadixAttention; storage is block-granular, as in vLLM.
Position p lies in block number p // block_size of its sequence. A node covers a range of
positions and holds the block of every block number that the range touches. The first of these
also holds the KV of the positions before the node's own within that block: either it is the
parent's last block too (the node came from a split), or its head was copied (the node came from a
branch). So the deepest node that touches a block number always has that block whole.

Tokens are kept as packed 32-bit unsigned integers: runs are compared by memcmp, not one by one.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import MisuseError
from .steps import Owner, Step

__all__ = [
    "TOKEN_BYTES",
    "Match",
    "Node",
    "is_free_leaf",
    "pack_tokens",
    "shared_length",
    "split",
    "unpack_tokens",
]

_TOKEN_TYPE = "I"
TOKEN_BYTES = array(_TOKEN_TYPE).itemsize
"""Bytes of one packed token."""


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Return token ids in the form in which the tree keeps and compares them.

    Raises:
        MisuseError: an id is not an integer of 32 bits, or negative.
    """
    try:
        return array(_TOKEN_TYPE, tokens).tobytes()
    except (TypeError, OverflowError) as error:
        raise MisuseError(f"these are not token ids: {error}") from error


def unpack_tokens(packed: bytes) -> Sequence[int]:
    """Return the ids that `pack_tokens` packed."""
    return array(_TOKEN_TYPE, packed)


def shared_length(left: bytes, right: bytes) -> int:
    """Return how many packed tokens two runs have in common at their start."""
    size = min(len(left), len(right))
    if left[:size] == right[:size]:
        return size // TOKEN_BYTES
    difference = int.from_bytes(left[:size], sys.byteorder) ^ int.from_bytes(
        right[:size], sys.byteorder
    )
    if sys.byteorder == "big":
        return (size * 8 - difference.bit_length()) // (8 * TOKEN_BYTES)
    lowest = (difference & -difference).bit_length() - 1
    return lowest // (8 * TOKEN_BYTES)


class Node:
    """A run of cached tokens, `tokens`, that begins at position `start`.

    `locks` counts the leases whose prefix ends here or further down. A root has no tokens, no
    blocks and no parent; a node that was taken out of the tree has no parent either. What else it
    knows is what an eviction policy may know (`policy.Evictable`).
    """

    __slots__ = (
        "blocks",
        "children",
        "halvings",
        "last_used",
        "locks",
        "owner",
        "parent",
        "shared",
        "start",
        "step",
        "tokens",
    )

    def __init__(self, parent: Node | None, start: int, tokens: bytes, blocks: list[int]) -> None:
        self.parent = parent
        self.start = start
        self.tokens = tokens
        self.blocks = blocks
        self.children: dict[bytes, Node] = {}
        self.locks = 0
        self.last_used = 0
        self.owner: Owner | None = None
        self.shared = False
        self.step = Step.UNKNOWN
        self.halvings = 0

    @property
    def length(self) -> int:
        """Tokens in this run."""
        return len(self.tokens) // TOKEN_BYTES

    @property
    def end(self) -> int:
        """The position behind the last token."""
        return self.start + len(self.tokens) // TOKEN_BYTES

    @property
    def first_token(self) -> bytes:
        """The key under which the parent knows this node."""
        return self.tokens[:TOKEN_BYTES]

    def use(self, clock: int, owner: Owner | None, step: Step) -> None:
        """Note that a lease which used this node has ended.

        What more than one owner used is not over if one of them never comes back: it is needed by
        the next of its kind, as soon as whoever waits for a tool goes on.
        """
        self.shared = self.shared or (bool(self.last_used) and self.owner != owner)
        self.last_used = clock
        self.owner = owner
        self.step = Step.TOOL if step is Step.FIRST_REPLY and self.shared else step
        self.halvings = 0

    def inherit(self, other: Node) -> None:
        """Take over what is known of the use of another node."""
        self.last_used = other.last_used
        self.owner = other.owner
        self.shared = other.shared
        self.step = other.step
        self.halvings = other.halvings

    def path(self) -> Iterator[Node]:
        """Yield this node and those above it, the root last."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def subtree(self) -> list[Node]:
        """Return this node and all below it, parents before children."""
        found = [self]
        for node in found:
            found.extend(node.children.values())
        return found

    def detach(self) -> None:
        """Take this node, and with it all below, out of the tree."""
        if self.parent is not None:
            del self.parent.children[self.first_token]
            self.parent = None


def is_free_leaf(node: Node) -> bool:
    """Say whether a node may be evicted: in the tree, continued by none, used by no lease."""
    return node.parent is not None and not node.children and not node.locks


@dataclass(slots=True)
class Match:
    """How far a sequence is cached: `length` tokens, ending `inside` tokens into `node`."""

    node: Node
    inside: int
    length: int

    @classmethod
    def walk(cls, root: Node, tokens: bytes, limit: int) -> Match:
        """Follow packed `tokens` from the root down, up to position `limit`."""
        node, position, inside = root, 0, 0
        while position < limit:
            at = position * TOKEN_BYTES
            child = node.children.get(tokens[at : at + TOKEN_BYTES])
            if child is None:
                break
            stop = min(at + len(child.tokens), limit * TOKEN_BYTES)
            node = child
            inside = shared_length(child.tokens, tokens[at:stop])
            position += inside
            if inside < child.length:
                break
        return cls(node, inside, position)

    def blocks(self, block_size: int) -> list[int]:
        """Return the block of each block number that the matched tokens touch."""
        table: list[int] = []
        for node in reversed(list(self.node.path())):
            first = node.start // block_size
            table[first:] = node.blocks
        return table[: -(-self.length // block_size)]


def split(node: Node, inside: int, block_size: int) -> Node:
    """Cut a node after `inside` of its tokens and return the new upper half.

    The object given stays as the lower half, so that who points to its end still does. Where the
    cut lies within a block, both halves refer to it: the caller adds that reference.
    """
    parent = node.parent
    if parent is None or not 0 < inside < node.length:
        raise MisuseError(f"a run of {node.length} tokens cannot be split after {inside}")
    cut = node.start + inside
    first = node.start // block_size
    head = node.tokens[: inside * TOKEN_BYTES]
    upper = Node(parent, node.start, head, node.blocks[: -(-cut // block_size) - first])
    upper.locks = node.locks
    upper.inherit(node)
    parent.children[upper.first_token] = upper
    node.parent = upper
    node.start = cut
    node.tokens = node.tokens[inside * TOKEN_BYTES :]
    node.blocks = node.blocks[cut // block_size - first :]
    upper.children[node.first_token] = node
    return upper
