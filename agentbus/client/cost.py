"""What a hop cost at the callee, as the first payload of a reply."""

from __future__ import annotations

import struct
from typing import Final

import msgpack

from ..errors import MalformedFrame
from ..telemetry import NO_COST, ModelCost

__all__ = ["pack_cost", "read_cost"]

_TIMES: Final = struct.Struct(">dd")
"""Seconds in the mailbox and in the handler; behind them the model calls' cost, if there were. A
process that measures nothing sends an empty frame."""


def pack_cost(queue_s: float, handle_s: float, model: ModelCost) -> bytes:
    """Write it as a frame."""
    times = _TIMES.pack(queue_s, handle_s) if handle_s or model.calls else b""
    if model.calls:
        times += msgpack.packb(model.pack())
    return times


def read_cost(frame: bytes | memoryview) -> tuple[float, float, ModelCost]:
    """Return what the callee measured: `queue_s`, `handle_s` and its model calls' cost.

    Raises:
        MalformedFrame: the frame does not say.
    """
    if not frame:
        return 0.0, 0.0, NO_COST
    try:
        queue_s, handle_s = _TIMES.unpack_from(frame)
        model = NO_COST
        if len(frame) > _TIMES.size:
            model = ModelCost.unpack(msgpack.unpackb(frame[_TIMES.size :]))
    except (ValueError, TypeError, struct.error, msgpack.UnpackException) as error:
        raise MalformedFrame(f"the account of a reply: {error}") from error
    return queue_s, handle_s, model
