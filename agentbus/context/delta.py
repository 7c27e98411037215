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
_FIELDS = 3
_ROWS = frozenset({(int, str, str), (int, str, str, bytes)})
"""A segment's row; the fourth field, what the segment refers to, is there only if not empty."""
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
    """Write a delta as bytes: some 55 more than the texts and names in it.

    Raises:
        TooLarge: it, or one segment, is larger than the receiver takes.
        InvalidMessage: it has more segments than the receiver takes.
    """
    if len(delta.segments) > limits.delta_segments:
        raise InvalidMessage(
            "context",
            f"{len(delta.segments)} segments at once are over the limit of {limits.delta_segments}",
        )
    for segment in delta.segments:
        if (size := _size(segment.author, segment.text)) > limits.segment:
            raise TooLarge("a context segment", size, limits.segment)
    base = b"" if delta.base == _EMPTY_ROOT else delta.base
    packed: bytes = msgpack.packb((base, delta.check, [_row(s) for s in delta.segments]))
    if len(packed) > limits.frame:
        raise TooLarge("the new part of a context", len(packed), limits.frame)
    return packed


def _row(segment: Segment) -> tuple[object, ...]:
    code = _KIND_CODES[segment.kind]
    if segment.refers:
        return code, segment.author, segment.text, segment.refers
    return code, segment.author, segment.text


def unpack(data: bytes | memoryview, limits: Limits, tenant: TenantKey) -> Delta:
    """Read a delta that a peer wrote.

    Raises:
        MalformedFrame: it is no delta, or over a limit: `frame` bytes in all, `delta_segments`
            segments, `segment` bytes of author and text in one.
    """
    if len(data) > limits.frame:
        raise MalformedFrame(f"a delta of {len(data)} bytes is over the limit of {limits.frame}")
    base, check, rows = _fields(_unpacked(data, limits))
    segments = tuple(_segment(row, limits, tenant) for row in rows)
    return Delta(base, segments, check, tenant)


def _unpacked(data: bytes | memoryview, limits: Limits) -> Any:
    try:
        return msgpack.unpackb(
            data,
            use_list=False,
            max_str_len=limits.segment,
            max_bin_len=DIGEST_SIZE,
            max_array_len=max(limits.delta_segments, _FIELDS),
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedFrame(f"not a delta: {error}") from error


def _fields(value: Any) -> tuple[bytes, bytes, tuple[Any, ...]]:
    if type(value) is not tuple or len(value) != _FIELDS:
        raise MalformedFrame(f"a delta is an array of {_FIELDS} fields")
    base, check, rows = value
    if type(base) is not bytes or len(base) not in (0, DIGEST_SIZE) or base == _EMPTY_ROOT:
        raise MalformedFrame("a delta's base is not a root")
    if type(check) is not bytes or len(check) != CHECK_SIZE:
        raise MalformedFrame(f"a delta's check is not {CHECK_SIZE} bytes")
    if type(rows) is not tuple:
        raise MalformedFrame("a delta's segments are not an array")
    return base or _EMPTY_ROOT, check, rows


def _size(author: str, text: str) -> int:
    return len(author.encode()) + len(text.encode())


def _segment(row: Any, limits: Limits, tenant: TenantKey) -> Segment:
    if type(row) is not tuple or tuple(map(type, row)) not in _ROWS:
        raise MalformedFrame("a segment is an array of kind, author, text and what it refers to")
    code, author, text = row[:3]
    refers = row[3] if len(row) > 3 else None
    if refers is not None and len(refers) != DIGEST_SIZE:
        raise MalformedFrame(f"a segment refers to {len(refers)} bytes, which name nothing")
    kind = _KINDS.get(code)
    if kind is None:
        raise MalformedFrame(f"a segment of unknown kind {code}")
    if (size := _size(author, text)) > limits.segment:
        raise MalformedFrame(f"a segment of {size} bytes is over the limit of {limits.segment}")
    return tenant.segment(kind, author, text, refers=refers or b"")
