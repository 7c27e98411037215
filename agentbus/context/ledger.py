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

GIVEN = 1 << 24
"""Characters of delivered texts that a ledger holds, each context counted as `_OVERHEAD` more; the
index of their lines takes several bytes for each of them."""
_OVERHEAD = 512


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


class Ledger:
    """What was given, by logical root and view; the least recently used makes room."""

    def __init__(self, max_characters: int = GIVEN, book: Book | None = None) -> None:
        self._max_characters = max_characters
        self._book = book
        self._characters = 0
        self._given: OrderedDict[tuple[bytes, bytes], Given] = OrderedDict()

    def __len__(self) -> int:
        return len(self._given)

    def given(self, root: bytes, view: bytes) -> Given | None:
        """Return what was given of a context; None if it was not, or had to make room."""
        key = root, view
        found = self._given.get(key)
        if found is not None:
            self._given.move_to_end(key)
        return found

    def decided(self, root: bytes, view: bytes) -> Decision | None:
        """Return what was once decided on the last segment of a context."""
        return None if self._book is None else self._book.get(root, view)

    def keep(self, root: bytes, view: bytes, given: Given, decision: Decision) -> None:
        """Keep what is given of a context, and what was decided on its last segment."""
        if (root, view) in self._given:
            return
        self._given[root, view] = given
        self._characters += _size(given)
        if self._book is not None:
            self._book.put(root, view, decision)
        self._make_room()

    def begin(self, root: bytes, view: bytes, given: Given) -> None:
        """Begin an epoch: from this context on, something else is given than was before."""
        before = self._given.pop((root, view), None)
        self._given[root, view] = given
        self._characters += _size(given) - (_size(before) if before else 0)
        self._make_room()

    def _make_room(self) -> None:
        while self._characters > self._max_characters and len(self._given) > 1:
            _, gone = self._given.popitem(last=False)
            self._characters -= _size(gone)


def _size(given: Given) -> int:
    last = given.context.last
    return _OVERHEAD + (len(last.text) if last else 0)
