"""References to segments, and what they name: how a reader gets back what a filter left out.

A reference is `ctx:` and the first hex digits of a segment's digest. It names the first segment of a
context whose digest begins so: `reference` writes as many digits as no segment before has, and what
is appended later changes nothing. Looking for contexts that are not at hand is for others
(`Lookup` says which).
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING

from ..errors import MisuseError
from .excerpt import Fetched, FetchStatus, Searched, excerpt, search_lines
from .kind import SegmentKind

if TYPE_CHECKING:
    from .segment import Context, Segment

__all__ = ["Lookup", "References", "fetched", "is_reference", "look_up", "reference", "searched"]

_START = "ctx:"
_DIGITS = 8
"""Hex digits of a reference, at least: more only where another segment begins alike."""
_REFERENCE = re.compile(r"ctx:([0-9a-f]{8,64})")


class References:
    """Names the last segments of contexts as `reference` does.

    Of contexts that are each made from the one before, each takes constant time.
    """

    __slots__ = ("_alike", "_root")

    def __init__(self) -> None:
        self._root = b""
        """The context that was asked about last."""
        self._alike: dict[bytes, list[bytes]] = {}
        """By the first bytes of digests: those of its segments, in order, each once."""

    def of(self, context: Context) -> str:
        """Return what names the last segment of a context, in which something was said."""
        new: list[bytes] = []
        for node in context.ancestors():
            if node.root == self._root:
                break
            if node.last is not None:
                new.append(node.last.digest)
        else:
            self._alike = {}
        self._root = context.root
        for digest in reversed(new):
            alike = self._alike.setdefault(digest[: _DIGITS // 2], [])
            if digest not in alike:
                alike.append(digest)
        return self._named(context.last.digest if context.last else b"")

    def _named(self, digest: bytes) -> str:
        alike = self._alike[digest[: _DIGITS // 2]]
        name = digest.hex()
        before = alike[: alike.index(digest)]
        return _START + name[: max([_DIGITS, *(_common(name, one.hex()) + 1 for one in before)])]


def reference(segment: Segment, context: Context) -> str:
    """Return what names a segment in a context, such as `ctx:ab12cd34`.

    It is as short as the segments before it allow, so it is the same in all contexts that extend
    this one. A segment that does not stand there is named as if it were appended.
    """
    return References().of(context.append(segment))


def is_reference(ref: str) -> bool:
    """Say whether a text has the form of a reference; it may name nothing."""
    return _REFERENCE.fullmatch(ref) is not None


class Lookup:
    """Looks for what a reference names, through contexts that are walked one after the other.

    It is a core without I/O: `context_wanted` and `segment_wanted` say where else to look, each once,
    and who can get that hands it in.
    """

    __slots__ = ("_contexts", "_met", "_named", "_prefix", "_segments", "_unnamed", "found")

    def __init__(self, ref: str) -> None:
        """Begin to look.

        Raises:
            MisuseError: the reference is no text.
        """
        if not isinstance(ref, str):
            raise MisuseError(f"a reference is a text, not {type(ref).__name__}")
        match = _REFERENCE.fullmatch(ref)
        self._prefix = match[1] if match else None
        self._met: set[bytes] = set()
        """Roots and digests of all that was looked at."""
        self._named: set[bytes] = set()
        """Those that summaries and new versions refer to."""
        self._contexts: deque[bytes] = deque()
        self._segments: deque[bytes] = deque()
        self._unnamed = False
        """A summary does not say what it stands for."""
        self.found: Segment | None = None
        """The segment, once it was found."""

    def walk(self, context: Context) -> None:
        """Look through a context, but for what was looked through before."""
        new: list[Segment] = []
        for node in context.ancestors():
            if node.root in self._met:
                break
            self._met.add(node.root)
            if node.last is not None:
                new.append(node.last)
        for segment in reversed(new):
            self.take(segment)

    def take(self, segment: Segment) -> None:
        """Look at a segment."""
        self._met.add(segment.digest)
        if self._prefix is None or self.found is not None:
            return
        if segment.digest.hex().startswith(self._prefix):
            self.found = segment
        elif segment.refers and segment.refers not in self._named:
            self._named.add(segment.refers)
            (self._segments if segment.replaces else self._contexts).append(segment.refers)
        elif segment.kind is SegmentKind.SUMMARY and not segment.refers:
            self._unnamed = True

    def context_wanted(self) -> bytes | None:
        """Return the root of a context that a summary stands for, and that was not walked yet."""
        return self._next(self._contexts)

    def segment_wanted(self) -> bytes | None:
        """Return the digest of a segment that another one replaces, and that was not met yet."""
        return self._next(self._segments)

    def outcome(self, reader: str) -> Segment | FetchStatus:
        """Return the segment if it was found and is for that reader, or what came of it."""
        if self.found is not None:
            return self.found if _may_read(self.found, reader) else FetchStatus.FORBIDDEN
        missing = self._unnamed or not self._named <= self._met
        return FetchStatus.EXPIRED if missing else FetchStatus.NEVER

    def _next(self, names: deque[bytes]) -> bytes | None:
        while names:
            if (name := names.popleft()) not in self._met:
                return name
        return None


def look_up(context: Context, ref: str, reader: str) -> Segment | FetchStatus:
    """Return what a reference names in a context itself, or what came of it."""
    lookup = Lookup(ref)
    lookup.walk(context)
    return lookup.outcome(reader)


def fetched(
    found: Segment | FetchStatus, lines: tuple[int, int] | None, characters: tuple[int, int] | None
) -> Fetched:
    """Return what `Context.fetch` does, given what came of its reference."""
    text = "" if isinstance(found, FetchStatus) else found.text
    part = excerpt(text, lines, characters)  # which refuses a bad range in any case
    return Fetched(found) if isinstance(found, FetchStatus) else part


def searched(found: Segment | FetchStatus, query: str, limit: int) -> Searched:
    """Return what `Context.search` does, given what came of its reference."""
    text = "" if isinstance(found, FetchStatus) else found.text
    lines = search_lines(text, query, limit)  # which refuses a bad query in any case
    return Searched(found) if isinstance(found, FetchStatus) else lines


def _may_read(segment: Segment, reader: str) -> bool:
    """Say whether layouts show a segment to the model of a reader; a program may read all itself."""
    if segment.kind is SegmentKind.PRIVATE_ROLE:
        return bool(reader) and segment.author == reader
    return segment.kind is not SegmentKind.NOTE


def _common(one: str, other: str) -> int:
    """Return how many digits two names begin with alike; they differ somewhere."""
    return next(place for place in range(len(one)) if one[place] != other[place])
