"""The KV index of one engine: which tokens' KV lies in which block, who uses it, what may go.

It decides; the engine performs. A call begins a lease on its prompt, which says what is reused,
which blocks to write, and which heads of blocks to copy first; it ends by committing what was
computed, or by releasing it. The index holds no tensors, reads no clock and is not thread-safe.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import Closed, KVExhausted, MisuseError
from .blocks import BlockPool
from .changes import BlocksCached, BlocksEvicted, Change
from .integrity import check_blocks, check_queue, check_tree
from .lease import Computing, Copy, Lease, PoolStats
from .policy import EvictionPolicy
from .queue import EvictionQueue
from .steps import Owner, Step
from .trails import Trails
from .tree import (
    TOKEN_BYTES,
    Match,
    Node,
    is_free_leaf,
    pack_tokens,
    shared_length,
    split,
    unpack_tokens,
)
from .workflow import WorkflowAware

__all__ = ["RadixIndex"]


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
            policy: what goes first; `WorkflowAware` by default.
            changes: gets what happens to whole blocks; who gives it empties it after each call.
        """
        if block_size <= 0:
            raise MisuseError(f"a KV block holds at least one token, not {block_size}")
        self._pool = pool
        self._block_size = block_size
        self._changes = changes
        self._roots: dict[bytes, Node] = {}
        self._leases: dict[Lease, None] = {}
        self._policy: EvictionPolicy = policy or WorkflowAware()
        self._queue: EvictionQueue[Node] = EvictionQueue(self._policy, is_free_leaf)
        self._trails = Trails()
        self._nodes = 0
        self._owned = 0
        self._clock = 0

    def begin(
        self, namespace: bytes, tokens: Sequence[int], *, reuse: bool = True, owner: str = ""
    ) -> Lease:
        """Lease blocks for all of `tokens`, reusing the longest prefix that is cached.

        At least the last token is never reused: its logits have to be computed. With `reuse`
        false nothing is reused, and nothing is kept in the end. `owner` names whoever makes one
        call after the other, so that eviction can tell what its next call will need; empty says
        nothing.

        Raises:
            KVExhausted: not enough blocks can be had; no lease was made and nothing was evicted.
            MisuseError: there are no tokens.
        """
        if len(tokens) == 0:
            raise MisuseError("a lease needs at least one token")
        needed = self._count_blocks(len(tokens))
        if not reuse:
            return self._register(Lease(namespace, None, 0, self._reserve(needed), (), 0))
        packed = pack_tokens(tokens)
        who = (namespace, owner) if owner else None
        match = Match.walk(self._root(namespace), packed, len(tokens) - 1)
        table = match.blocks(self._block_size)
        whole, rest = divmod(match.length, self._block_size)
        node = self._cut(match)
        self._lock(node)
        if who is not None:
            self._follow(who, node, packed)
        try:
            owned = self._reserve(needed - whole)
        except KVExhausted:
            self._unlock(node)
            raise
        copies = (Copy(table[whole], owned[0], rest),) if rest else ()
        blocks = table[:whole] + owned
        return self._register(
            Lease(namespace, node, match.length, blocks, copies, whole, packed, who)
        )

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

    def commit(
        self, lease: Lease, tokens: Sequence[int], *, step: Step | None = Step.UNKNOWN
    ) -> None:
        """End a lease and keep the KV of `tokens`, all of which has been computed.

        They begin with what `begin` was given; they may go on with what was decoded, or stop
        short where a call was cancelled. Where the tree holds a token already, it keeps its own.
        `step` says how the call left its owner; None that it has not: it goes on, by a lease that
        is yet to begin.

        Raises:
            Closed: the lease has ended.
            MisuseError: the lease has no blocks for that many tokens, or reused other ones. It
                is still open then.
        """
        self._require_open(lease)
        if self._count_blocks(len(tokens)) > len(lease.blocks):
            raise MisuseError(f"the lease has no blocks for {len(tokens)} tokens")
        kept, end = range(0), lease._node
        if end is not None and len(tokens) > lease.reused:
            kept, end = self._insert(lease, end, pack_tokens(tokens), len(tokens))
        self._end(lease, kept, end, step)

    def release(self, lease: Lease) -> None:
        """End a lease and keep nothing that it computed.

        Raises:
            Closed: the lease has ended.
        """
        self._require_open(lease)
        self._end(lease, range(0), lease._node, Step.UNKNOWN)

    def match_length(self, namespace: bytes, tokens: Sequence[int]) -> int:
        """Return how many of `tokens` are cached, from the first on. Changes nothing."""
        root = self._roots.get(namespace)
        if root is None:
            return 0
        return Match.walk(root, pack_tokens(tokens), len(tokens)).length

    def computing(self, namespace: bytes, tokens: Sequence[int]) -> Computing | None:
        """Return the running call that computes most of what these tokens lack, if one does.

        Who waits for it, instead of computing the same at the same time, reuses its blocks: one
        prefill for all that need it (single flight).
        """
        packed = pack_tokens(tokens)
        found, longest = None, self.match_length(namespace, tokens)
        for lease in self._leases:
            length = shared_length(lease._tokens, packed) if lease.namespace == namespace else 0
            if length > longest:
                found, longest = lease, length
        return None if found is None else Computing(found, longest)

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
        self._leases[lease] = None
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

    def _follow(self, owner: Owner, node: Node, tokens: bytes) -> None:
        """Tell the policy of a call, and of what the owner's last one had and this one leaves out.

        It is never what is left of a block behind the prompts' common part.
        """
        self._policy.called(owner, tokens, self._clock + 1)
        gone = self._trails.left_out(owner, node)
        self._trails.ended(owner, node)  # if there is no room now, it begins again
        tail = b"".join(above.tokens for above in gone)
        if len(tail) <= self._block_size * TOKEN_BYTES:
            return
        halvings = self._policy.superseded(owner, gone[0].start, tail)
        for above in gone:
            if above.owner == owner and not above.shared:
                above.halvings = halvings
        self._offer(gone[-1])

    def _touch(self, node: Node, owner: Owner | None, step: Step | None) -> None:
        self._clock += 1
        known = Step.UNKNOWN
        if owner is not None:
            self._trails.ended(owner, node)
            if step is not None:
                known = self._policy.left(owner, step, self._clock)
        for above in node.path():
            above.use(self._clock, owner, known)
        self._offer(node)

    def _offer(self, node: Node) -> None:
        if is_free_leaf(node):
            self._queue.push(node)
            self._queue.sweep(self._nodes)

    def _insert(self, lease: Lease, node: Node, tokens: bytes, length: int) -> tuple[range, Node]:
        """Put tokens into the tree.

        Returns the block numbers that passed from lease to tree, and the node that ends there.
        """
        *_, root = node.path()
        match = Match.walk(root, tokens, length)
        if match.length < lease.reused:
            raise MisuseError("these tokens do not begin with those that the lease reused")
        if match.length == length:
            return range(0), match.node
        above = self._cut(match)
        kept = range(match.length // self._block_size, self._count_blocks(length))
        blocks = lease.blocks[kept.start : kept.stop]
        leaf = Node(above, match.length, tokens[match.length * TOKEN_BYTES :], blocks)
        above.children[leaf.first_token] = leaf
        self._nodes += 1
        self._report_cached(lease.namespace, tokens, leaf)
        return kept, leaf

    def _end(self, lease: Lease, kept: range, end: Node | None, step: Step | None) -> None:
        del self._leases[lease]
        owned = lease.blocks[lease._owned_from :]
        self._pool.unpin(owned)
        self._owned -= len(owned)
        for number, block in enumerate(owned, lease._owned_from):
            if number not in kept:
                self._pool.release(block)
        if lease._node is not None and end is not None:
            self._touch(end, lease._owner, step)
            self._unlock(lease._node)

    def _reserve(self, count: int) -> list[int]:
        """Take blocks for a lease, evicting as the policy says; all or none."""
        if count > self._pool.available:
            raise KVExhausted(needed=count, available=self._pool.available)
        while self._pool.free < count:
            leaf = self._queue.pop(self._clock + 1)
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
                self._trails.shorten(leaf, parent)
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
