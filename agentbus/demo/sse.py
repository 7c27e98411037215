"""Server-sent events with one JSON object each, as chat completion servers stream them.

Bytes in, objects out; sockets are the callers'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from ..errors import FrameTooLarge, MalformedFrame

__all__ = ["MAX_EVENT_BYTES", "EventDecoder", "encode_event"]

MAX_EVENT_BYTES = 1024 * 1024
"""Largest event that a peer may send."""

_PREFIX = b"data: "
_END = b"\n\n"


def encode_event(data: Mapping[str, object]) -> bytes:
    """Return `data` as one event."""
    return _PREFIX + orjson.dumps(data) + _END


class EventDecoder:
    """Takes a stream apart into events, wherever its chunks are cut."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, chunk: bytes) -> list[dict[str, Any]]:
        """Return the events that `chunk` completes.

        Raises:
            FrameTooLarge: an event is over `MAX_EVENT_BYTES`.
            MalformedFrame: an event is not `data: ` and a JSON object.
        """
        *events, self._buffer = (self._buffer + chunk).split(_END)
        for event in (*events, self._buffer):
            if len(event) > MAX_EVENT_BYTES:
                raise FrameTooLarge("event", len(event), MAX_EVENT_BYTES)
        return [_decode(event) for event in events]


def _decode(event: bytes) -> dict[str, Any]:
    if not event.startswith(_PREFIX):
        raise MalformedFrame("an event without data")
    try:
        data = orjson.loads(event[len(_PREFIX) :])
    except orjson.JSONDecodeError as error:
        raise MalformedFrame("an event that is not JSON") from error
    if not isinstance(data, dict):
        raise MalformedFrame("an event that is not an object")
    return data
