"""What a model was really given of contexts, and why: decided once, and the same for ever.

A receiver of context is a model that reads it under one plan of filters, a *view*. For each context
that it was given the ledger holds what stood in its prompt, found by the logical root. What is
appended is delivered behind that, so a prompt only grows at its end. What had to make room in memory
is read again from the book, where there is one, and else decided anew, which costs reuse and nothing
else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from .earlier import Earlier
from .kind import SegmentKind
from .segment import Context

__all__ = ["GIVEN", "Book", "Decision", "Given", "Ledger", "Receipt"]

GIVEN = 1 << 28
"""Bytes of memory that a ledger takes, about."""
_NAMED = 8
"""Bytes of a root that name what was given before."""
_SEGMENT = 8192
_LINE = 320
_CHARACTER = 5
"""Bytes that a segment takes, and each line and character of it, in the index of what references
can lead to, too: measured. A segment that forks a conversation begins an index of its own."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is delivered in the place of a segment's text."""

    text: str | None
    """None where it is delivered as it is."""
    filters: str
    """Names of what was applied, in order, with ` + ` between them; empty if nothing was."""
    why: str
    """In plain words."""
    sent_tokens: int = 0
    delivered_tokens: int = 0
    """By the model's tokenizer; both 0 where no filter looked at the text."""
    left_out: tuple[tuple[int, int], ...] = ()
    """Lines of the original that are not there, or not wholly: first and last, counted from 1."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What went of one segment, when a model was first given it."""

    kind: SegmentKind
    sender: str
    reader: str
    digest: bytes = field(repr=False)
    """The original's."""
    decision: Decision

    @property
    def saved_tokens(self) -> int:
        """Tokens that the model did not read, net of marks."""
        return self.decision.sent_tokens - self.decision.delivered_tokens


@dataclass(frozen=True, slots=True)
class Given:
    """A context as a model was given it."""

    context: Context
    """Of the delivered texts; its root names them."""
    earlier: Earlier = field(repr=False)
    """The same, as references see it."""
    parent: Given | None = field(default=None, repr=False)
    receipt: Receipt | None = None
    """Of the last segment; None where there is none yet."""
    saved_tokens: int = 0
    """In the whole context."""
    left_out_tokens: int = 0
    """Those of them that lossy filters left out."""

    def receipts(self) -> list[Receipt]:
        """Return all receipts, in the order of what was said."""
        found = [node.receipt for node in self.chain() if node.receipt is not None]
        found.reverse()
        return found

    def chain(self) -> Iterator[Given]:
        """Yield this, then what was given of each context that it was made from."""
        node: Given | None = self
        while node is not None:
            yield node
            node = node.parent


class Book(Protocol):
    """Keeps decisions beyond memory and restarts."""

    def get(self, root: bytes, view: bytes) -> Decision | None:
        """Return what was decided on the last segment of a context; None if that is not known."""
        ...

    def put(self, root: bytes, view: bytes, decision: Decision) -> None:
        """Keep a decision. What is kept already stays as it is."""
        ...

    def close(self) -> None:
        """Keep nothing more."""
        ...


@dataclass(slots=True, eq=False)
class _Entry:
    """What is kept of one context."""

    key: tuple[bytes, bytes]
    given: Given
    size: int
    before: _Entry | None
    """Of the context that this one goes on from."""
    followed: int = 0
    """How many go on from this one."""


class Ledger:
    """What was given, by logical root and view; the least recently used makes room, from its end.

    What is kept holds all that it goes on from in memory, so that is kept as well, and goes last.
    Even so the context that was kept last stays, however large it is.
    """

    def __init__(self, max_bytes: int = GIVEN, book: Book | None = None) -> None:
        self._max_bytes = max_bytes
        self._book = book
        self._entries: dict[tuple[bytes, bytes], _Entry] = {}
        self._kept: dict[int, _Entry] = {}
        """By the identity of what is given, which nothing else has as long as it is kept."""
        self._ends: OrderedDict[int, _Entry] = OrderedDict()
        """Those from which none goes on, the least recently used first."""
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """Bytes of memory that it takes, about."""
        return self._bytes

    def given(self, root: bytes, view: bytes) -> Given | None:
        """Return what was given of a context; None if it was not, or had to make room."""
        found = self._entries.get((root, view))
        if found is None:
            return None
        if not found.followed:
            self._ends.move_to_end(id(found.given))
        return found.given

    def decided(self, root: bytes, view: bytes, before: Given) -> Decision | None:
        """Return what was once decided on the last segment of a context, behind what is given.

        Behind anything else it does not hold: it may refer to what is not there.
        """
        return None if self._book is None else self._book.get(root, view + _name(before))

    def keep(self, root: bytes, view: bytes, given: Given, decision: Decision) -> None:
        """Keep what is given of a context, and what was decided on its last segment."""
        if (root, view) in self._entries:
            return
        if self._book is not None:
            before = given.parent or given
            self._book.put(root, view + _name(before), decision)
        self._add((root, view), given)

    def begin(self, root: bytes, view: bytes, given: Given) -> None:
        """Begin an epoch: from this context on, something else is given than was before."""
        old = self._entries.pop((root, view), None)
        if old is not None and not old.followed:
            self._remove(old)
        self._add((root, view), given)

    def _add(self, key: tuple[bytes, bytes], given: Given) -> None:
        size = _size(given)
        node = given.parent
        while node is not None and id(node) not in self._kept:  # decided anew, by an epoch
            size += _size(node)
            node = node.parent
        before = None if node is None else self._kept[id(node)]
        if before is not None:
            before.followed += 1
            self._ends.pop(id(before.given), None)
        entry = _Entry(key, given, size, before)
        self._entries[key] = self._kept[id(given)] = self._ends[id(given)] = entry
        self._bytes += size
        while self._bytes > self._max_bytes and len(self._ends) > 1:
            self._remove(next(iter(self._ends.values())))

    def _remove(self, end: _Entry) -> None:
        """Let go of a context from which none goes on."""
        del self._kept[id(end.given)], self._ends[id(end.given)]
        if self._entries.get(end.key) is end:
            del self._entries[end.key]
        self._bytes -= end.size
        before = end.before
        if before is not None:
            before.followed -= 1
            if not before.followed:
                self._ends[id(before.given)] = before
                self._ends.move_to_end(id(before.given), last=False)


def _name(given: Given) -> bytes:
    return given.context.root[:_NAMED]


def _size(given: Given) -> int:
    text = given.context.last.text if given.context.last else ""
    return _SEGMENT + _LINE * (text.count("\n") + 1) + _CHARACTER * len(text)
