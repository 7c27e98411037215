"""Several values of one type in one payload frame: a msgpack array of them.

Parts of a stream and published messages travel so: an envelope for many small values costs little
more than an envelope for one. Values that refer to buffers are large; each goes alone, in several
frames, and is no array.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import MalformedFrame
from ..messages import Envelope, Kind

__all__ = ["Joined", "count_batch", "is_small", "join_batch", "published"]

_SMALL = 4096
"""Bytes of a published value that is joined with others; larger ones gain little from it."""
_FULL = 32 * 1024
"""Bytes of values from which on they are not kept any longer."""
_HEADS = {0xDC: 3, 0xDD: 5}
"""Bytes of an array's head by its first one, where the count is not within that."""
_ONE = b"\x91"
"""The head of an array of one."""
_PUBLISH = Kind.PUBLISH


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


class Joined:
    """Published values that wait to leave one link together: of one topic, sender and type."""

    __slots__ = ("_schema", "_source", "_target", "_values", "size")

    def __init__(self) -> None:
        self._source = self._target = self._schema = ""
        self._values: list[bytes | memoryview] = []
        self.size = 0
        """Bytes of values that wait."""

    def fits(self, source: str, target: str, schema: str) -> bool:
        """Tell whether a value may wait with those that do."""
        return not self._values or (
            target == self._target and schema == self._schema and source == self._source
        )

    def add(self, source: str, target: str, schema: str, value: bytes | memoryview) -> bool:
        """Keep a value that `fits`. Returns whether more should be kept."""
        if not self._values:
            self._source, self._target, self._schema = source, target, schema
        self._values.append(value)
        self.size += len(value)
        return self.size < _FULL

    def take(self) -> Envelope:
        """Return all that waited, as one envelope."""
        frames = (join_batch(self._values),)
        self._values, self.size = [], 0
        return published(self._source, self._target, self._schema, frames)


def is_small(frames: Sequence[bytes | memoryview]) -> bool:
    """Tell whether a packed value is worth joining with others."""
    return len(frames) == 1 and len(frames[0]) <= _SMALL


def published(
    source: str, target: str, schema: str, frames: tuple[bytes | memoryview, ...]
) -> Envelope:
    """Return the envelope of a batch, or of one value with its buffers."""
    return Envelope(_PUBLISH, 0, source, target, schema, payloads=frames)
