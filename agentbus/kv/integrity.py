"""What must hold in a KV index after every operation. Written to find defects, not for speed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from .blocks import BlockPool
from .tree import Node, is_free_leaf

__all__ = ["check_blocks", "check_queue", "check_tree"]


def _require(holds: bool, invariant: str) -> None:
    if not holds:
        raise AssertionError(f"broken invariant of the KV index: {invariant}")


def check_tree(nodes: Sequence[Node], lease_ends: Iterable[Node], block_size: int) -> None:
    """Check the shape of the trees of which `nodes` are all nodes, and their locks."""
    locks = Counter(id(above) for end in lease_ends for above in end.path())
    for node in nodes:
        _require(node.locks == locks[id(node)], "a node's locks are the leases that end below it")
        for key, child in node.children.items():
            _require(child.parent is node, "a child knows its parent")
            _require(key == child.first_token, "a child is found under its first token")
            _require(child.start == node.end, "a child begins where its parent ends")
            _require(child.last_used <= node.last_used, "a parent is used when its child is")
        if node.parent is None:
            _require(not node.tokens and not node.blocks, "a root is empty")
            continue
        _require(node.length > 0, "a node has tokens")
        touched = range(node.start // block_size, -(-node.end // block_size))
        _require(len(node.blocks) == len(touched), "a node has a block for each it touches")


def check_blocks(pool: BlockPool, nodes: Sequence[Node], owned: Iterable[Sequence[int]]) -> None:
    """Check that a pool's counts equal what nodes and leases refer to; `owned` per lease."""
    references = Counter(block for node in nodes for block in node.blocks)
    pins = Counter(block for node in nodes if node.locks for block in node.blocks)
    for blocks in owned:
        _require(not any(references[block] for block in blocks), "a lease's own blocks are its own")
        references.update(blocks)
        pins.update(blocks)
    free = pool.free_blocks()
    _require(len(set(free)) == len(free), "a block is free once")
    _require(not any(references[block] for block in free), "a free block is not used")
    for block in range(pool.total):
        _require(pool.references(block) == references[block], "references are counted")
        _require(pool.pins(block) == pins[block], "pins are counted")
    used = sum(1 for count in references.values() if count)
    _require(used + pool.free == pool.total, "each block is free or used")
    _require(pool.pinned == sum(1 for count in pins.values() if count), "pinned blocks are counted")


def check_queue(waiting: Iterable[Node], nodes: Iterable[Node]) -> None:
    """Check that exactly the nodes that may be evicted wait for it."""
    expected = {id(node) for node in nodes if is_free_leaf(node)}
    _require({id(node) for node in waiting} == expected, "free leaves wait for eviction")
