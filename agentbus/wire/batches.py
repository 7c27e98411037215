"""Several values of one type in one payload frame: a msgpack array of them.

Parts of a stream and published messages travel so: an envelope for many small values costs little
more than an envelope for one. Values that refer to buffers are large; each goes alone, in several
frames, and is no array.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import MalformedFrame
from ..messages import Envelope, Kind

__all__ = ["Joined", "count_batch", "join_batch"]

_SMALL = 4096
"""Bytes of a batch that is joined with others; larger ones gain little from it."""
_FULL = 8192
"""Bytes of values from which on joined batches are not kept any longer."""
_HEADS = {0xDC: 3, 0xDD: 5}
"""Bytes of an array's head by its first one, where the count is not within that."""
_PUBLISH = Kind.PUBLISH


def join_batch(values: Sequence[bytes | memoryview]) -> bytes:
    """Return one frame that holds so many packed values."""
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


class Joined:
    """Published batches that wait to leave one link together: of one topic, sender and type."""

    __slots__ = ("_count", "_first", "_values", "size")

    def __init__(self) -> None:
        self._first: Envelope | None = None
        self._count = 0
        self._values: list[bytes | memoryview] = []
        self.size = 0
        """Bytes of values that wait."""

    def takes(self, envelope: Envelope) -> bool:
        """Tell whether this one may wait with those that do, or wait at all.

        What another process made may not: nobody here has looked whether its array is one.
        """
        first, payloads = self._first, envelope.payloads
        if envelope.kind is not _PUBLISH or envelope.size or len(payloads) != 1:
            return False
        if len(payloads[0]) > _SMALL:
            return False
        return first is None or (
            first.target == envelope.target
            and first.schema == envelope.schema
            and first.source == envelope.source
        )

    def add(self, envelope: Envelope) -> bool:
        """Keep what `takes` allows. Returns whether more should be kept.

        Raises:
            MalformedFrame: it is no batch.
        """
        (frame,) = envelope.payloads
        count, start = _read_head(frame)
        if self._first is None:
            self._first = envelope
        self._count += count
        self._values.append(memoryview(frame)[start:])
        self.size += len(frame)
        return self.size < _FULL

    def take(self) -> Envelope | None:
        """Return all that waited as one envelope."""
        first = self._first
        if first is None:
            return None
        payload = b"".join((_head(self._count), *self._values))
        self._first, self._count, self._values, self.size = None, 0, [], 0
        return Envelope(
            _PUBLISH,
            source=first.source,
            target=first.target,
            schema=first.schema,
            payloads=(payload,),
        )
