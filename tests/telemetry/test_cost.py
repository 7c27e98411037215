from __future__ import annotations

import struct

import msgpack
import pytest

from agentbus.client.cost import pack_cost, read_cost
from agentbus.errors import MalformedFrame
from agentbus.telemetry import NO_COST, ModelCost

COST = ModelCost(1, 2, 3, 4, 5, 6, 7, 0.5, 1.5, 2.5, 3.5, 0.25, 8)
TIMES = struct.pack(">dd", 0.25, 0.5)


def test_costs_add_up_and_travel() -> None:
    assert ModelCost.unpack(COST.pack()) == COST
    total = COST + COST
    assert (total.calls, total.received_bytes, total.ttft_s) == (2, 6, 7.0)
    assert COST + NO_COST == COST


def test_what_a_callee_measured_is_read() -> None:
    assert read_cost(TIMES) == (0.25, 0.5, NO_COST)
    assert read_cost(pack_cost(0.25, 0.5, COST)) == (0.25, 0.5, COST)
    assert read_cost(pack_cost(0.0, 0.0, COST)) == (0.0, 0.0, COST)
    assert pack_cost(0.0, 0.0, NO_COST) == b""  # where nothing is measured
    assert read_cost(b"") == (0.0, 0.0, NO_COST)
    assert read_cost(TIMES + msgpack.packb(COST.pack())) == (0.25, 0.5, COST)


@pytest.mark.parametrize(
    "frame",
    [
        b"\0",
        TIMES[:-1],
        TIMES + b"\xc1",
        TIMES + msgpack.packb(5),
        TIMES + msgpack.packb({}),
        TIMES + msgpack.packb(COST.pack()[:-1]),
        TIMES + msgpack.packb([*COST.pack()[:-1], "late"]),
        TIMES + msgpack.packb([True, *COST.pack()[1:]]),
        TIMES + msgpack.packb([-1, *COST.pack()[1:]]),
        TIMES + msgpack.packb([*COST.pack()[:-1], -0.5]),
        TIMES + msgpack.packb([*COST.pack()[:-1], float("nan")]),
        TIMES + msgpack.packb([*COST.pack()[:-1], float("inf")]),
        TIMES + msgpack.packb(COST.pack()) + b"\x00",
    ],
)
def test_anything_else_is_malformed(frame: bytes) -> None:
    with pytest.raises(MalformedFrame):
        read_cost(frame)
