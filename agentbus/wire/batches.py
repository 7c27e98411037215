"""Several small messages in one envelope, which costs little more than an envelope for one.

Parts of a stream and published values are a msgpack array in one payload frame; a value that refers
to buffers is large, goes alone in several frames, and is no array. Requests, replies and parts of several streams that
leave within one turn of the loop share a header, and each keeps a frame of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from ..config import Limits
from ..errors import MalformedFrame
from ..messages import Envelope, Kind
from .codec import MAX_TEXT

__all__ = [
    "MAX_BATCH",
    "TRACE_SIZE",
    "JoinKey",
    "Joined",
    "count_batch",
    "is_small",
    "join_batch",
    "pack_parts_head",
    "pack_reply_head",
    "pack_request_head",
    "published",
    "read_parts_heads",
    "read_reply_heads",
    "read_request_heads",
]

_SMALL: Final = 4096
"""Bytes of a published value that is joined with others; larger ones gain little from it."""
_FULL: Final = 64 * 1024
"""Bytes of values from which on they are not kept any longer."""
MAX_BATCH: Final = _FULL
"""Published values in one envelope, at most. In memory each is a message, however few its bytes."""
_HEADS: Final = {0xDC: 3, 0xDD: 5}
"""Bytes of an array's head by its first one, where the count is not within that."""
_ONE: Final = b"\x91"
"""The head of an array of one."""
_PUBLISH: Final = Kind.PUBLISH
_MANY: Final = 12
"""Requests or replies that leave together: with many more the peer would stand idle meanwhile."""
_WIDEST: Final = 1024
"""Bytes of a header of joined messages, at most."""
_LARGEST: Final = 2 * _SMALL
"""Bytes of the last message that is added, with its head, and what frames cost; at most."""
TRACE_SIZE: Final = 24
"""Bytes of a request's trace; one without a trace is not joined."""
_REQUEST_HEAD: Final = struct.Struct(f">Q{TRACE_SIZE}s")
_REPLY_HEAD: Final = struct.Struct(">Qdd")
_PARTS_HEAD: Final = struct.Struct(">Q")
pack_request_head: Callable[[int, bytes], bytes] = _REQUEST_HEAD.pack
"""Writes what `read_request_heads` reads of one request."""
pack_reply_head: Callable[[int, float, float], bytes] = _REPLY_HEAD.pack
"""Writes what `read_reply_heads` reads of one reply."""
pack_parts_head: Callable[[int], bytes] = _PARTS_HEAD.pack
"""Writes what `read_parts_heads` reads of one stream."""


def join_batch(values: Sequence[bytes | memoryview]) -> bytes:
    """Return one frame that holds so many packed values."""
    if len(values) == 1:
        return _ONE + values[0]
    return b"".join((_head(len(values)), *values))


def count_batch(frames: Sequence[bytes | memoryview]) -> int:
    """Return how many values a payload holds, without reading them.

    Raises:
        MalformedFrame: it is no batch.
    """
    return 1 if len(frames) > 1 else _read_head(frames[0] if frames else b"")[0]


def _head(count: int) -> bytes:
    if count < 16:
        return bytes((0x90 | count,))
    if count < 1 << 16:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")


def _read_head(frame: bytes | memoryview) -> tuple[int, int]:
    """Return how many values a batch says it holds, and the bytes of its head."""
    first = frame[0] if len(frame) else 0
    if 0x90 <= first <= 0x9F:
        return first & 0x0F, 1
    end = _HEADS.get(first, 0)
    if not end or len(frame) < end:
        raise MalformedFrame("a batch of values is an array")
    return int.from_bytes(frame[1:end], "big"), end


JoinKey = tuple[Kind, str, str, str, int]
"""What all messages that leave together have in common: kind, source, target, schema, hops left."""
_NOTHING: Final[JoinKey] = (_PUBLISH, "", "", "", 0)


class Joined:
    """Messages that wait to leave one link together.

    What waits can be sent: nobody could be told any more that it cannot.
    """

    __slots__ = ("_first", "_full", "_heads", "_key", "_many", "_values", "size")

    def __init__(self, limits: Limits) -> None:
        self._full = min(_FULL, limits.frame - _WIDEST - _LARGEST)
        """Bytes from which on no other message surely has room."""
        self._many = min(_MANY, limits.payloads - 1) if limits.header >= _WIDEST else 0
        self._key: JoinKey | None = None
        self._first = 0
        self._heads: list[bytes] = []
        self._values: list[bytes | memoryview] = []
        self.size = 0
        """Bytes of what waits."""

    def fits(self, key: JoinKey, number: int) -> bool:
        """Tell whether a message may wait with those that do.

        Args:
            key: what it has to have in common with them.
            number: a request's, which is to follow theirs; 0 for what has none.
        """
        values = self._values
        return not values or (
            (key is self._key or key == self._key)
            and (not number or number == self._first + len(values))
        )

    def add(self, key: JoinKey, number: int, head: bytes, value: bytes | memoryview) -> bool:
        """Keep a message that `fits`. Returns whether more should be kept; if not, what waits is
        to be sent at once, so that who brought the last one hears whether that can be."""
        values = self._values
        if head:
            self._heads.append(head)
        values.append(value)
        self.size += len(head) + len(value)
        if len(values) == 1:
            self._key, self._first = key, number
            if not (self._many and _is_sendable(key)):
                return False
        return self.size < self._full and (key[0] is _PUBLISH or len(values) < self._many)

    def take(self) -> Envelope:
        """Return all that waited, of which there is some, as one envelope."""
        kind, source, target, schema, hops_left = self._key or _NOTHING
        values = self._values
        if kind is _PUBLISH:
            frames: tuple[bytes | memoryview, ...] = (join_batch(values),)
        else:
            frames = (b"".join(self._heads), *values)
        self._values, self._heads, self.size = [], [], 0
        return Envelope(
            kind, self._first, source, target, schema, hops_left=hops_left, payloads=frames
        )


def _is_sendable(key: JoinKey) -> bool:
    """Tell whether an `Encoder` surely accepts what joined messages have in common."""
    names = key[1] + key[2] + key[3]
    return len(names) <= MAX_TEXT and names.isascii()


def is_small(frames: Sequence[bytes | memoryview]) -> bool:
    """Tell whether a packed value is worth joining with others."""
    return len(frames) == 1 and len(frames[0]) <= _SMALL


def published(
    source: str, target: str, schema: str, frames: tuple[bytes | memoryview, ...]
) -> Envelope:
    """Return the envelope of one published value."""
    if len(frames) == 1:
        frames = (join_batch(frames),)
    return Envelope(_PUBLISH, 0, source, target, schema, payloads=frames)


def read_request_heads(frames: Sequence[bytes | memoryview]) -> Iterator[tuple[int, bytes]]:
    """Return what is each one's own of joined requests: microseconds until its deadline, its trace.

    Raises:
        MalformedFrame: heads and values do not match.
    """
    return _heads(_REQUEST_HEAD, frames)


def read_reply_heads(
    frames: Sequence[bytes | memoryview],
) -> Iterator[tuple[int, float, float]]:
    """Return of joined replies each one's request, and its seconds in mailbox and handler.

    Raises:
        MalformedFrame: heads and values do not match.
    """
    return _heads(_REPLY_HEAD, frames)


def read_parts_heads(frames: Sequence[bytes | memoryview]) -> Iterator[tuple[int]]:
    """Return of joined parts which request those of each frame belong to.

    Raises:
        MalformedFrame: heads and frames do not match.
    """
    return _heads(_PARTS_HEAD, frames)


def _heads(head: struct.Struct, frames: Sequence[bytes | memoryview]) -> Iterator[Any]:
    if len(frames) < 2 or len(frames[0]) != head.size * (len(frames) - 1):
        raise MalformedFrame("joined messages are their heads and as many values")
    return head.iter_unpack(frames[0])
