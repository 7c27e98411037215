"""The contexts that a process keeps, so that a peer may refer to them.

The store is bounded. It decides what to forget: never what is leased to a message in flight or
retained by the program, otherwise the least recently used. No clock has a say. Asking a peer again
for what is missing, and answering such a question, is the client's business.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass

from ..errors import (
    ConfigError,
    ForgottenContext,
    MalformedFrame,
    MisuseError,
    TooLarge,
    UnknownContext,
)
from .delta import Delta
from .segment import DIGEST_SIZE, Context, Segment

__all__ = ["CONTEXT_BYTES", "ContextStore", "check_root"]

CONTEXT_BYTES = 640
"""What one kept context is counted as, beside the author and text of its last segment: measured."""
_FORGOTTEN = 16384
"""How many roots are remembered of contexts that were forgotten, and what they were made from."""

_EMPTY_ROOT = bytes(DIGEST_SIZE)


@dataclass(slots=True)
class _Kept:
    context: Context
    children: int = 0
    holds: int = 0
    """Leases and retentions; what has any is not forgotten, nor what it was made from."""
    last_used: int = 0


def check_root(root: object) -> None:
    """Raise ConfigError if this is no reference to a context: the bytes of its root."""
    if not isinstance(root, bytes):
        problem = (
            f"must be the root of a context, in bytes, not {root!r:.40}; what a mark in a text "
            "names is had from call.context.fetch"
        )
        raise ConfigError("reference", problem)


class ContextStore:
    """Contexts by root, at most `max_bytes` of them; the least recently used are forgotten.

    A context that can be found can be walked: its ancestors can be found too. So the store forgets
    from the ends of chains. A segment counts once, however many contexts hold it, and equal
    segments that came separately are kept as one object.

    What is leased stays even if that takes more than `max_bytes`: messages in flight, which are
    bounded elsewhere, hold these contexts anyway.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes <= 0:
            raise MisuseError(f"a context store needs room, not {max_bytes} bytes")
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: dict[bytes, _Kept] = {}
        self._segments: dict[bytes, Segment] = {}
        self._more_uses: dict[bytes, int] = {}
        """Of a segment that several contexts end with, how many do beside the first."""
        self._ends: OrderedDict[bytes, None] = OrderedDict()
        """What may be forgotten next: ends of chains that nothing holds, the oldest first."""
        self._retained: Counter[bytes] = Counter()
        self._forgotten: OrderedDict[bytes, bytes] = OrderedDict()
        """Roots of what was forgotten, the oldest first, and the roots of what they were made from."""
        self._clock = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, root: bytes) -> bool:
        return root in self._kept

    @property
    def held_bytes(self) -> int:
        """Bytes counted for all that is kept; over `max_bytes` only by what is leased."""
        return self._bytes

    def add(self, context: Context) -> Context:
        """Make a context and all that it was made from findable, and return the kept equal of it.

        O(what is new). One that is larger than the whole store is kept in part, from its
        beginning.
        """
        found = self._add(context)
        self._shrink()
        return found

    def get(self, root: bytes) -> Context | None:
        """Return the context of that root, or None if it is not kept."""
        kept = self._kept.get(root)
        if kept is None:
            return None
        self._use(root, kept)
        return kept.context

    def find(self, root: bytes) -> Context:
        """Return the context of that root, to be read or forked.

        Raises:
            ForgottenContext: it was kept here, and had to make room or was collected.
            UnknownContext: nobody has brought it here, or it was forgotten long ago.
            ConfigError: it is no reference to a context.
        """
        check_root(root)
        context = self.get(root)
        if context is not None:
            return context
        if root in self._forgotten:
            raise ForgottenContext(root.hex())
        raise UnknownContext(root.hex())

    def segment(self, digest: bytes) -> Segment | None:
        """Return the segment of that digest, or None if no context that is kept holds it."""
        return self._segments.get(digest)

    def beginning(self, root: bytes) -> bytes | None:
        """Return the root of the longest beginning that is kept of a context, itself not kept.

        None if it is not remembered that it ever was. So who forgot the end of a context need not
        ask for the whole.
        """
        while root in self._forgotten:
            root = self._forgotten[root]
            if root in self._kept or root == _EMPTY_ROOT:
                return root
        return None

    def lease(self, context: Context) -> None:
        """Keep a context until its lease is ended: for as long as a message refers to it."""
        self._add(context)
        self._hold(context.root)
        self._shrink()

    def end_lease(self, root: bytes) -> None:
        """End one lease of a context; when all have ended, it may be forgotten.

        Raises:
            MisuseError: there is none.
        """
        self._let_go(root)

    def retain(self, context: Context) -> None:
        """Keep a context, and all that it was made from, until it is released as often.

        A summary in it does not keep what it stands for: that is to be retained too, if need be.

        Raises:
            TooLarge: with what else may not be forgotten now, it takes more than the store has.
        """
        self.lease(context)
        if self._bytes > self._max_bytes:
            taken = self._bytes
            self._let_go(context.root)
            raise TooLarge("what is retained of contexts", taken, self._max_bytes)
        self._retained[context.root] += 1

    def release(self, context: Context) -> None:
        """Take one retention back; when all are, the context may be forgotten.

        Raises:
            MisuseError: it is not retained.
        """
        root = context.root
        if root not in self._retained:
            raise MisuseError("a context is released that is not retained")
        self._retained[root] -= 1
        if not self._retained[root]:
            del self._retained[root]
        self._let_go(root)

    def collect(self) -> int:
        """Forget all that is neither leased nor retained; return the bytes that this frees."""
        before = self._bytes
        while self._ends:
            self._forget_oldest()
        return before - self._bytes

    def resolve(self, delta: Delta) -> Context | None:
        """Return the context that a delta stands for, and keep it.

        None means that its base is not kept: ask the sender for the whole.

        Raises:
            MalformedFrame: the segments do not lead to the root that the delta's check begins.
        """
        context = delta.tenant.empty()
        if delta.base != context.root:
            kept = self._kept.get(delta.base)
            if kept is None or kept.context.tenant != delta.tenant:
                return None
            context = kept.context
        for segment in delta.segments:
            context = context.append(segment)
        if not context.root.startswith(delta.check):
            raise MalformedFrame("a context's segments do not give its root")
        return self.add(context)

    def _add(self, context: Context) -> Context:
        missing: list[tuple[Context, Segment]] = []
        node = context
        while node.parent is not None and node.last is not None and node.root not in self._kept:
            missing.append((node, node.last))
            node = node.parent
        kept = self._kept.get(node.root)
        found = node if kept is None else kept.context
        for new, segment in reversed(missing):
            found = self._keep(found, new, self._share(segment))
        kept = self._kept.get(found.root)
        if kept is not None:
            self._use(found.root, kept)
        return found

    def _keep(self, parent: Context, new: Context, segment: Segment) -> Context:
        """Keep one context more; its root is known, so nothing is hashed."""
        above = self._kept.get(parent.root)
        if above is not None:
            above.children += 1
            self._ends.pop(parent.root, None)
        if new.parent is not parent or new.last is not segment:
            new = Context(new.tenant, parent, segment, new.root, new.length)
        self._kept[new.root] = _Kept(new)
        self._bytes += CONTEXT_BYTES
        return new

    def _share(self, segment: Segment) -> Segment:
        shared = self._segments.get(segment.digest)
        if shared is not None:
            self._more_uses[segment.digest] = self._more_uses.get(segment.digest, 0) + 1
            return shared
        self._segments[segment.digest] = segment
        self._bytes += _size(segment)
        return segment

    def _unshare(self, segment: Segment) -> None:
        more = self._more_uses.get(segment.digest, 0)
        if more > 1:
            self._more_uses[segment.digest] = more - 1
        elif more == 1:
            del self._more_uses[segment.digest]
        else:
            del self._segments[segment.digest]
            self._bytes -= _size(segment)

    def _use(self, root: bytes, kept: _Kept) -> None:
        self._clock += 1
        kept.last_used = self._clock
        if not kept.children and not kept.holds:
            self._ends[root] = None
            self._ends.move_to_end(root)

    def _hold(self, root: bytes) -> None:
        kept = self._kept.get(root)
        if kept is not None:  # else it is the empty one, which cannot be forgotten
            kept.holds += 1
            self._ends.pop(root, None)

    def _let_go(self, root: bytes) -> None:
        kept = self._kept.get(root)
        if kept is not None:
            if not kept.holds:
                raise MisuseError("a context is let go of that nothing holds")
            kept.holds -= 1
            self._use(root, kept)
            self._shrink()

    def _shrink(self) -> None:
        while self._bytes > self._max_bytes and self._ends:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        root, _ = self._ends.popitem(last=False)
        gone = self._kept.pop(root)
        self._bytes -= CONTEXT_BYTES
        parent, last = gone.context.parent, gone.context.last
        if parent is None or last is None:
            return
        self._unshare(last)
        self._remember(root, parent.root)
        above = self._kept.get(parent.root)
        if above is not None:
            above.children -= 1
            if not above.children and not above.holds:
                self._now_an_end(above, gone)

    def _remember(self, root: bytes, parent: bytes) -> None:
        self._forgotten[root] = parent
        self._forgotten.move_to_end(root)
        if len(self._forgotten) > _FORGOTTEN:
            self._forgotten.popitem(last=False)

    def _now_an_end(self, above: _Kept, gone: _Kept) -> None:
        """The rest of a chain is as old as its end was, unless it was used by itself since."""
        root = above.context.root
        self._ends[root] = None
        if above.last_used < gone.last_used:
            above.last_used = gone.last_used
            self._ends.move_to_end(root, last=False)


def _size(segment: Segment) -> int:
    return len(segment.author.encode()) + len(segment.text.encode())
