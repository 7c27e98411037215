"""The KV index of one engine: which tokens' KV lies in which block, who uses it, what may go.

It decides; the engine performs. A call begins a lease on its prompt, which says what is reused,
which blocks to write, and which heads of blocks to copy first; it ends by committing what was
computed, or by releasing it. The index holds no tensors, reads no clock and is not thread-safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import Closed, KVExhausted, MisuseError
from .blocks import BlockPool
from .changes import BlocksCached, BlocksEvicted, Change
from .integrity import check_blocks, check_queue, check_tree
from .policy import LRU, EvictionPolicy, EvictionQueue
from .tree import TOKEN_BYTES, Match, Node, is_free_leaf, pack_tokens, split, unpack_tokens

__all__ = ["Copy", "Lease", "PoolStats", "RadixIndex"]


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

    __slots__ = ("_node", "_owned_from", "blocks", "copies", "namespace", "reused")

    def __init__(
        self,
        namespace: bytes,
        node: Node | None,
        reused: int,
        blocks: list[int],
        copies: tuple[Copy, ...],
        owned: int,
    ) -> None:
        self.namespace = namespace
        self.reused = reused
        self.blocks = blocks
        self.copies = copies
        self._node = node
        self._owned_from = owned


class RadixIndex:
    """Longest-prefix reuse over token ids, with locking and eviction.

    Namespaces are apart: tokens of one never match another's. A namespace is the fingerprint of
    all else that shapes KV (model, weights, dtype, rope, adapter, tenant).

    After SGLang's RadixAttention (split on divergence, lock while used, evict leaves), over
    blocks counted by reference as in vLLM.
    """

    def __init__(
        self,
        pool: BlockPool,
        block_size: int,
        policy: EvictionPolicy | None = None,
        *,
        changes: list[Change] | None = None,
    ) -> None:
        """Index the blocks of a pool.

        Args:
            policy: what goes first; least recently used by default.
            changes: gets what happens to whole blocks; who gives it empties it after each call.
        """
        if block_size <= 0:
            raise MisuseError(f"a KV block holds at least one token, not {block_size}")
        self._pool = pool
        self._block_size = block_size
        self._changes = changes
        self._roots: dict[bytes, Node] = {}
        self._leases: set[Lease] = set()
        self._queue: EvictionQueue[Node] = EvictionQueue(policy or LRU(), is_free_leaf)
        self._nodes = 0
        self._owned = 0
        self._clock = 0

    def begin(self, namespace: bytes, tokens: Sequence[int], *, reuse: bool = True) -> Lease:
        """Lease blocks for all of `tokens`, reusing the longest prefix that is cached.

        At least the last token is never reused: its logits have to be computed. With `reuse`
        false nothing is reused, and nothing is kept in the end.

        Raises:
            KVExhausted: not enough blocks can be had; no lease was made and nothing was evicted.
            MisuseError: there are no tokens.
        """
        if len(tokens) == 0:
            raise MisuseError("a lease needs at least one token")
        needed = self._count_blocks(len(tokens))
        if not reuse:
            return self._register(Lease(namespace, None, 0, self._reserve(needed), (), 0))
        match = Match.walk(self._root(namespace), pack_tokens(tokens), len(tokens) - 1)
        table = match.blocks(self._block_size)
        whole, rest = divmod(match.length, self._block_size)
        node = self._cut(match)
        self._lock(node)
        try:
            owned = self._reserve(needed - whole)
        except KVExhausted:
            self._unlock(node)
            raise
        copies = (Copy(table[whole], owned[0], rest),) if rest else ()
        blocks = table[:whole] + owned
        return self._register(Lease(namespace, node, match.length, blocks, copies, whole))

    def extend(self, lease: Lease, length: int) -> None:
        """Make a lease's block table cover `length` tokens; it never shrinks.

        Raises:
            KVExhausted: not enough blocks can be had; nothing was changed.
            Closed: the lease has ended.
        """
        self._require_open(lease)
        missing = self._count_blocks(length) - len(lease.blocks)
        if missing > 0:
            lease.blocks.extend(self._reserve(missing))

    def commit(self, lease: Lease, tokens: Sequence[int]) -> None:
        """End a lease and keep the KV of `tokens`, all of which has been computed.

        They begin with what `begin` was given; they may go on with what was decoded, or stop
        short where a call was cancelled. Where the tree holds a token already, it keeps its own.

        Raises:
            Closed: the lease has ended.
            MisuseError: the lease has no blocks for that many tokens, or reused other ones. It
                is still open then.
        """
        self._require_open(lease)
        if self._count_blocks(len(tokens)) > len(lease.blocks):
            raise MisuseError(f"the lease has no blocks for {len(tokens)} tokens")
        kept = range(0)
        if lease._node is not None and len(tokens) > lease.reused:
            kept = self._insert(lease, lease._node, pack_tokens(tokens), len(tokens))
        self._end(lease, kept)

    def release(self, lease: Lease) -> None:
        """End a lease and keep nothing that it computed.

        Raises:
            Closed: the lease has ended.
        """
        self._require_open(lease)
        self._end(lease, range(0))

    def match_length(self, namespace: bytes, tokens: Sequence[int]) -> int:
        """Return how many of `tokens` are cached, from the first on. Changes nothing."""
        root = self._roots.get(namespace)
        if root is None:
            return 0
        return Match.walk(root, pack_tokens(tokens), len(tokens)).length

    def clear(self, namespace: bytes | None = None) -> None:
        """Drop everything that no lease uses, in one namespace or in all."""
        names = list(self._roots) if namespace is None else [namespace]
        for root in [self._roots[name] for name in names if name in self._roots]:
            for node in root.subtree():
                if node.parent is not None and not node.locks:
                    self._drop(node)

    def stats(self) -> PoolStats:
        """Return the state of the pool."""
        pool = self._pool
        cached = pool.total - pool.free - self._owned
        return PoolStats(total=pool.total, free=pool.free, cached=cached, locked=pool.pinned)

    def check_integrity(self) -> None:
        """Check every invariant of tree, blocks, leases and eviction order, in O(all of it).

        Raises:
            AssertionError: one is broken; the text names it. That is a defect of this package.
        """
        nodes = [node for root in self._roots.values() for node in root.subtree()]
        ends = [lease._node for lease in self._leases if lease._node is not None]
        check_tree(nodes, ends, self._block_size)
        owned = [lease.blocks[lease._owned_from :] for lease in self._leases]
        check_blocks(self._pool, nodes, owned)
        check_queue(self._queue.waiting(), nodes)
        if self._nodes != len(nodes) - len(self._roots) or self._owned != sum(map(len, owned)):
            raise AssertionError("the counts of nodes or of leased blocks are wrong")

    def _count_blocks(self, tokens: int) -> int:
        return -(-tokens // self._block_size)

    def _root(self, namespace: bytes) -> Node:
        root = self._roots.get(namespace)
        if root is None:
            emptied = [name for name, r in self._roots.items() if not r.children and not r.locks]
            for name in emptied:
                del self._roots[name]
            root = self._roots[namespace] = Node(None, 0, b"", [])
        return root

    def _register(self, lease: Lease) -> Lease:
        self._leases.add(lease)
        return lease

    def _require_open(self, lease: Lease) -> None:
        if lease not in self._leases:
            raise Closed("KV lease")

    def _cut(self, match: Match) -> Node:
        """Return the node that ends where the match does, splitting one if need be."""
        node = match.node
        if match.inside == node.length:
            return node
        upper = split(node, match.inside, self._block_size)
        self._nodes += 1
        if upper.end % self._block_size:
            self._pool.retain(node.blocks[0])
            if node.locks:
                self._pool.pin(node.blocks[:1])
        return upper

    def _lock(self, node: Node) -> None:
        for above in node.path():
            if above.locks == 0:
                self._pool.pin(above.blocks)
            above.locks += 1

    def _unlock(self, node: Node) -> None:
        for above in node.path():
            above.locks -= 1
            if above.locks == 0:
                self._pool.unpin(above.blocks)
        self._offer(node)

    def _touch(self, node: Node) -> None:
        self._clock += 1
        for above in node.path():
            above.last_used = self._clock
        self._offer(node)

    def _offer(self, node: Node) -> None:
        if is_free_leaf(node):
            self._queue.push(node)
            self._queue.sweep(self._nodes)

    def _insert(self, lease: Lease, node: Node, tokens: bytes, length: int) -> range:
        """Put tokens into the tree; return the block numbers that passed from lease to tree."""
        *_, root = node.path()
        match = Match.walk(root, tokens, length)
        if match.length < lease.reused:
            raise MisuseError("these tokens do not begin with those that the lease reused")
        if match.length == length:
            self._touch(match.node)
            return range(0)
        above = self._cut(match)
        kept = range(match.length // self._block_size, self._count_blocks(length))
        blocks = lease.blocks[kept.start : kept.stop]
        leaf = Node(above, match.length, tokens[match.length * TOKEN_BYTES :], blocks)
        above.children[leaf.first_token] = leaf
        self._nodes += 1
        self._touch(leaf)
        self._report_cached(lease.namespace, tokens, leaf)
        return kept

    def _end(self, lease: Lease, kept: range) -> None:
        self._leases.remove(lease)
        owned = lease.blocks[lease._owned_from :]
        self._pool.unpin(owned)
        self._owned -= len(owned)
        for number, block in enumerate(owned, lease._owned_from):
            if number not in kept:
                self._pool.release(block)
        if lease._node is not None:
            self._touch(lease._node)
            self._unlock(lease._node)

    def _reserve(self, count: int) -> list[int]:
        """Take blocks for a lease, evicting as the policy says; all or none."""
        if count > self._pool.available:
            raise KVExhausted(needed=count, available=self._pool.available)
        while self._pool.free < count:
            leaf = self._queue.pop()
            if leaf is None:
                break  # allocate raises; check_integrity proves that this does not happen
            self._evict(leaf, count - self._pool.free)
        taken = self._pool.allocate(count)
        self._pool.pin(taken)
        self._owned += count
        return taken

    def _evict(self, leaf: Node, count: int) -> None:
        """Free up to `count` blocks of a leaf, from its end: what is left is still a prefix."""
        kept = len(leaf.blocks) - count
        if kept <= 0:
            parent = leaf.parent
            self._drop(leaf)
            if parent is not None:
                self._offer(parent)
            return
        self._report_evicted(leaf, kept)
        for block in leaf.blocks[kept:]:
            self._pool.release(block)
        del leaf.blocks[kept:]
        end = (leaf.start // self._block_size + kept) * self._block_size
        leaf.tokens = leaf.tokens[: (end - leaf.start) * TOKEN_BYTES]
        self._offer(leaf)

    def _drop(self, node: Node) -> None:
        """Take a node and all below it out of the tree; none of them is locked."""
        dropped = node.subtree()
        for gone in reversed(dropped):
            self._report_evicted(gone, 0)
        node.detach()
        for gone in dropped:
            for block in gone.blocks:
                self._pool.release(block)
            gone.parent = None
            gone.children = {}
        self._nodes -= len(dropped)

    def _report_cached(self, namespace: bytes, tokens: bytes, leaf: Node) -> None:
        """Tell of the blocks that end in a new leaf; its parent may have the head of the first."""
        first = leaf.start // self._block_size
        whole = leaf.end // self._block_size - first
        if self._changes is not None and whole > 0:
            known = unpack_tokens(tokens[: (first + whole) * self._block_size * TOKEN_BYTES])
            blocks = tuple(leaf.blocks[:whole])
            self._changes.append(BlocksCached(namespace, known, first, blocks))

    def _report_evicted(self, node: Node, kept: int) -> None:
        """Tell of the blocks behind the first `kept` ones that end in a node, before they go."""
        whole = node.end // self._block_size - node.start // self._block_size
        if self._changes is not None and whole > kept:
            self._changes.append(BlocksEvicted(tuple(node.blocks[kept:whole])))
