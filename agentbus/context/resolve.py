"""The contexts that a process keeps, so that a peer may refer to them.

The store is bounded. It decides what to forget; asking a peer again for what is missing, and
answering such a question, is the client's business.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from ..errors import MalformedFrame, MisuseError
from .delta import Delta
from .segment import Context, Segment

__all__ = ["CONTEXT_BYTES", "ContextStore"]

CONTEXT_BYTES = 512
"""What one kept context is counted as, beside the author and text of its last segment."""
_SWEEP = 64


@dataclass(slots=True)
class _Kept:
    context: Context
    children: int
    last_used: int


@dataclass(slots=True)
class _Shared:
    segment: Segment
    size: int
    uses: int


class ContextStore:
    """Contexts by root, at most `max_bytes` of them; the least recently used are forgotten.

    A context that can be found can be walked: its ancestors can be found too. So the store forgets
    from the ends of chains. A segment counts once, however many contexts hold it, and equal
    segments that came separately are kept as one object.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes <= 0:
            raise MisuseError(f"a context store needs room, not {max_bytes} bytes")
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: dict[bytes, _Kept] = {}
        self._segments: dict[bytes, _Shared] = {}
        self._ends: list[tuple[int, bytes]] = []
        self._clock = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, root: bytes) -> bool:
        return root in self._kept

    @property
    def held_bytes(self) -> int:
        """Bytes counted for all that is kept; never over `max_bytes` between calls."""
        return self._bytes

    def add(self, context: Context) -> Context:
        """Make a context and all that it was made from findable, and return the kept equal of it.

        O(what is new). One that is larger than the whole store is kept in part, from its
        beginning.
        """
        missing: list[Segment] = []
        node = context
        while node.last is not None and node.parent is not None and node.root not in self._kept:
            missing.append(node.last)
            node = node.parent
        kept = self._kept.get(node.root)
        found = kept.context if kept is not None else node
        for segment in reversed(missing):
            found = self._keep(found, segment)
        self._use(context.root)
        self._shrink()
        return found

    def get(self, root: bytes) -> Context | None:
        """Return the context of that root, or None if it is not kept."""
        kept = self._kept.get(root)
        if kept is None:
            return None
        self._use(root)
        return kept.context

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

    def _keep(self, parent: Context, segment: Segment) -> Context:
        shared = self._segments.get(segment.digest)
        if shared is None:
            size = len(segment.author.encode()) + len(segment.text.encode())
            shared = self._segments[segment.digest] = _Shared(segment, size, 0)
            self._bytes += size
        shared.uses += 1
        context = parent.append(shared.segment)
        self._kept[context.root] = _Kept(context, 0, 0)
        self._bytes += CONTEXT_BYTES
        above = self._kept.get(parent.root)
        if above is not None:
            above.children += 1
        return context

    def _use(self, root: bytes) -> None:
        kept = self._kept.get(root)
        if kept is None:
            return
        self._clock += 1
        kept.last_used = self._clock
        self._offer(root, kept)

    def _offer(self, root: bytes, kept: _Kept) -> None:
        if kept.children:
            return
        heapq.heappush(self._ends, (kept.last_used, root))
        if len(self._ends) > 2 * len(self._kept) + _SWEEP:
            self._ends = [entry for entry in self._ends if self._is_end(*entry)]
            heapq.heapify(self._ends)

    def _is_end(self, last_used: int, root: bytes) -> bool:
        kept = self._kept.get(root)
        return kept is not None and not kept.children and kept.last_used == last_used

    def _shrink(self) -> None:
        while self._bytes > self._max_bytes:
            last_used, root = heapq.heappop(self._ends)
            if self._is_end(last_used, root):
                self._forget(root)

    def _forget(self, root: bytes) -> None:
        context = self._kept.pop(root).context
        self._bytes -= CONTEXT_BYTES
        if context.last is not None:
            shared = self._segments[context.last.digest]
            shared.uses -= 1
            if shared.uses == 0:
                del self._segments[context.last.digest]
                self._bytes -= shared.size
        above = None if context.parent is None else self._kept.get(context.parent.root)
        if above is not None and context.parent is not None:
            above.children -= 1
            self._offer(context.parent.root, above)
