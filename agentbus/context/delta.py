"""Contexts by reference: what of a context a peer lacks, and that as bytes.

A delta names a context that the receiver holds (its base), the segments after it, and the root
that results. Making one takes time and bytes in proportion to what is new, however long the
transcript is. Roots are recomputed where a delta is resolved, so a damaged or forged one cannot
stand for another context. Keeping contexts is the business of `resolve`; sending is the client's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import msgpack

from ..config import Limits
from ..errors import InvalidMessage, MalformedFrame, MisuseError, TooLarge
from .segment import DIGEST_SIZE, Context, Segment, SegmentKind, TenantKey

__all__ = ["CHECK_SIZE", "Delta", "HeldRoots", "KnownRoots", "delta_for", "pack", "unpack"]

_EMPTY_ROOT = bytes(DIGEST_SIZE)
_FIELDS = 4
_ROW = (int, str, bytes)
"""What a segment is on the wire: its speaker's number, its text, and what it refers to, if any."""
CHECK_SIZE = 8
"""Bytes of the root that a delta carries."""
_KIND_CODES: Mapping[SegmentKind, int] = MappingProxyType(
    {
        SegmentKind.ROLE: 1,
        SegmentKind.DOCUMENT: 2,
        SegmentKind.USER: 3,
        SegmentKind.ASK: 4,
        SegmentKind.MESSAGE: 5,
        SegmentKind.SUMMARY: 6,
        SegmentKind.TOOLS: 7,
        SegmentKind.TOOL_CALL: 8,
        SegmentKind.TOOL_RESULT: 9,
        SegmentKind.PRIVATE_ROLE: 10,
        SegmentKind.NOTE: 11,
    }
)
"""The kinds' numbers on the wire; they are never reused."""
_KINDS = MappingProxyType({code: kind for kind, code in _KIND_CODES.items()})


class HeldRoots(Protocol):
    """Says which contexts a peer is taken to hold."""

    def __contains__(self, root: bytes, /) -> bool:
        """Say whether the peer is taken to hold the context of that root."""
        ...


class KnownRoots:
    """Roots that a peer is known to hold, at most `limit`, the least recently used forgotten.

    A context implies all that it was made from: look its ancestors up, the latest first. A root
    forgotten here, or by the peer, costs bytes and a round trip, never correctness.
    """

    def __init__(self, limit: int) -> None:
        if limit <= 0:
            raise MisuseError(f"a set of known roots holds at least one, not {limit}")
        self._limit = limit
        self._roots: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._roots)

    def __contains__(self, root: bytes) -> bool:
        """Say whether the root is known; one that is counts as used."""
        if root not in self._roots:
            return False
        self._roots.move_to_end(root)
        return True

    def add(self, root: bytes) -> None:
        """Note that the peer holds the context of that root."""
        self._roots[root] = None
        self._roots.move_to_end(root)
        if len(self._roots) > self._limit:
            self._roots.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Delta:
    """A context, as the context `base` and the segments after it.

    `check` is the beginning of its root: the receiver computes the root itself, and sees by the
    check that nothing was lost on the way.
    """

    base: bytes
    segments: tuple[Segment, ...]
    check: bytes
    tenant: TenantKey = field(repr=False)


def delta_for(context: Context, known: HeldRoots) -> Delta:
    """Return what a peer that holds `known` needs to have `context`. O(what is new)."""
    new: list[Segment] = []
    base = _EMPTY_ROOT
    for node in context.ancestors():
        if node.last is None or node.root in known:
            base = node.root
            break
        new.append(node.last)
    new.reverse()
    return Delta(base, tuple(new), context.root[:CHECK_SIZE], context.tenant)


_DEFAULT_LIMITS = Limits()


def pack(delta: Delta, limits: Limits = _DEFAULT_LIMITS) -> bytes:
    """Write a delta as bytes: some 55 more than the texts and names in it, however many they are.

    A speaker (kind and author) is written once; a segment is its speaker's number, its text and,
    if there is one, what it refers to.

    Raises:
        TooLarge: it, or one segment, is larger than the receiver takes.
        InvalidMessage: it has more segments than the receiver takes.
    """
    if len(delta.segments) > limits.delta_segments:
        raise InvalidMessage(
            "context",
            f"{len(delta.segments)} segments at once are over the limit of {limits.delta_segments}",
        )
    speakers: dict[tuple[int, str], int] = {}
    items: list[int | str | bytes] = []
    total = 0
    for segment in delta.segments:
        size = _size(segment.author) + _size(segment.text)
        if size > limits.segment:
            raise TooLarge("a context segment", size, limits.segment)
        total += size
        speaker = (_KIND_CODES[segment.kind], segment.author)
        items += (speakers.setdefault(speaker, len(speakers)), segment.text)
        if segment.refers:
            items.append(segment.refers)
    base = b"" if delta.base == _EMPTY_ROOT else delta.base
    names = [field for speaker in speakers for field in speaker]
    packed: bytes = msgpack.packb((base, delta.check, names, items))
    if (size := max(total, len(packed))) > limits.frame:
        raise TooLarge("the new part of a context", size, limits.frame)
    return packed


def unpack(data: bytes | memoryview, limits: Limits, tenant: TenantKey) -> Delta:
    """Read a delta that a peer wrote.

    Raises:
        MalformedFrame: it is no delta, or over a limit: `frame` bytes in all, `delta_segments`
            segments, `segment` bytes of author and text in one.
    """
    if len(data) > limits.frame:
        raise MalformedFrame(f"a delta of {len(data)} bytes is over the limit of {limits.frame}")
    base, check, names, items = _fields(_unpacked(data, limits))
    rows = _rows(items, limits)
    speakers = _speakers(names)
    _check_sizes(rows, [_size(author) for _, author in speakers], limits)
    segments = [_segment(row, speakers[row[0]], tenant) for row in rows]
    return Delta(base, tuple(segments), check, tenant)


def _unpacked(data: bytes | memoryview, limits: Limits) -> Any:
    try:
        return msgpack.unpackb(
            data,
            use_list=False,
            max_str_len=limits.segment,
            max_bin_len=DIGEST_SIZE,
            max_array_len=max(limits.delta_segments * len(_ROW), _FIELDS),
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedFrame(f"not a delta: {error}") from error


def _fields(value: Any) -> tuple[bytes, bytes, tuple[Any, ...], tuple[Any, ...]]:
    if type(value) is not tuple or len(value) != _FIELDS:
        raise MalformedFrame(f"a delta is an array of {_FIELDS} fields")
    base, check, names, items = value
    if type(base) is not bytes or len(base) not in (0, DIGEST_SIZE) or base == _EMPTY_ROOT:
        raise MalformedFrame("a delta's base is not a root")
    if type(check) is not bytes or len(check) != CHECK_SIZE:
        raise MalformedFrame(f"a delta's check is not {CHECK_SIZE} bytes")
    if type(names) is not tuple or type(items) is not tuple:
        raise MalformedFrame("a delta's speakers and segments are not arrays")
    return base or _EMPTY_ROOT, check, names, items


def _speakers(names: tuple[Any, ...]) -> list[tuple[SegmentKind, str]]:
    speakers: list[tuple[SegmentKind, str]] = []
    codes, authors = names[::2], names[1::2]
    if len(codes) != len(authors):
        raise MalformedFrame("a delta's speaker without a name")
    for code, author in zip(codes, authors, strict=True):
        kind = _KINDS.get(code) if type(code) is int else None
        if kind is None or type(author) is not str:
            raise MalformedFrame("a delta's speaker is not of a kind that is known, with a name")
        speakers.append((kind, author))
    return speakers


def _rows(items: tuple[Any, ...], limits: Limits) -> list[list[Any]]:
    """Return the segments' rows, which stand in one array: each begins with a number."""
    rows: list[list[Any]] = []
    for item in items:
        if type(item) is int:
            rows.append([item])
        elif rows and len(rows[-1]) < len(_ROW) and type(item) is _ROW[len(rows[-1])]:
            rows[-1].append(item)
        else:
            raise MalformedFrame("a segment is its speaker, its text and what it refers to")
    if len(rows) > limits.delta_segments:
        raise MalformedFrame(f"{len(rows)} segments are over the limit of {limits.delta_segments}")
    return rows


def _check_sizes(rows: list[list[Any]], names: list[int], limits: Limits) -> None:
    """Check all rows before anything is hashed: a name that is sent once counts for each of them."""
    total = 0
    for row in rows:
        if len(row) < 2 or not 0 <= row[0] < len(names):
            raise MalformedFrame("a segment without a text, or of an unknown speaker")
        if len(row) > 2 and len(row[2]) != DIGEST_SIZE:
            raise MalformedFrame(f"a segment refers to {len(row[2])} bytes, which name nothing")
        size = names[row[0]] + _size(row[1])
        total += size
        if size > limits.segment or total > limits.frame:
            raise MalformedFrame(f"a segment of {size} bytes, {total} in all, is over the limit")


def _segment(row: list[Any], speaker: tuple[SegmentKind, str], tenant: TenantKey) -> Segment:
    kind, author = speaker
    return tenant.segment(kind, author, row[1], refers=row[2] if len(row) > 2 else b"")


def _size(text: str) -> int:
    return len(text.encode())
