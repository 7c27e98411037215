"""KV events in vLLM's format: written as it writes them, read as any version of it does."""

from __future__ import annotations

import math
import random
from typing import Any

import msgpack
import pytest

from agentbus.errors import MalformedFrame
from agentbus.kv import (
    MAX_BATCH_BYTES,
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    EventBatch,
    decode_batch,
    encode_batch,
)

STORED = BlockStored(
    block_hashes=(b"\x01" * 32, 2**64 - 1),
    parent_block_hash=-5,
    token_ids=(1, 2, 3, 4),
    block_size=2,
    medium="GPU",
    extra_keys=(("salt", ("image", 3)), None),
)
BATCH = EventBatch(
    ts=1.5,
    events=(STORED, BlockRemoved(block_hashes=(7,), medium="CPU"), AllBlocksCleared()),
    data_parallel_rank=0,
)
AS_MAPS = [
    1.5,
    [
        {
            "type": "BlockStored",
            "block_hashes": [b"\x01" * 32, 2**64 - 1],
            "parent_block_hash": -5,
            "token_ids": [1, 2, 3, 4],
            "block_size": 2,
            "lora_id": None,
            "medium": "GPU",
            "lora_name": None,
            "extra_keys": [["salt", ["image", 3]], None],
        },
        {"type": "BlockRemoved", "block_hashes": [7], "medium": "CPU"},
        {"type": "AllBlocksCleared"},
    ],
    0,
]
"""What vLLM 0.32 writes for `BATCH`."""
AS_ARRAYS = [
    1.5,
    [
        [
            "BlockStored",
            [b"\x01" * 32, 2**64 - 1],
            -5,
            [1, 2, 3, 4],
            2,
            None,
            "GPU",
            None,
            [["salt", ["image", 3]], None],
        ],
        ["BlockRemoved", [7], "CPU"],
        ["AllBlocksCleared"],
    ],
    0,
]
"""What vLLM 0.14 writes for it."""


def test_a_batch_is_written_as_vllm_writes_it() -> None:
    assert encode_batch(BATCH) == msgpack.packb(AS_MAPS)


@pytest.mark.parametrize(
    "form",
    [
        AS_MAPS,
        AS_ARRAYS,
        {"ts": 1.5, "events": AS_MAPS[1], "data_parallel_rank": 0},
        [1.5, [AS_MAPS[1][0], AS_ARRAYS[1][1], AS_MAPS[1][2]], 0, None, "further"],  # type: ignore[index]
    ],
)
def test_all_forms_of_a_batch_are_read(form: object) -> None:
    assert decode_batch(msgpack.packb(form)) == BATCH


def test_the_first_form_of_all_is_read() -> None:
    old = [2, [["BlockStored", [1], None, [5], 1, None], ["BlockRemoved", [1]]]]
    assert decode_batch(msgpack.packb(old)) == EventBatch(
        ts=2.0,
        events=(
            BlockStored(block_hashes=(1,), parent_block_hash=None, token_ids=(5,), block_size=1),
            BlockRemoved(block_hashes=(1,)),
        ),
    )


def test_fields_and_events_that_are_not_known_are_left_out() -> None:
    events = [{"type": "BlockTouched", "x": 1}, {"type": "AllBlocksCleared", "locality": "LOCAL"}]
    assert decode_batch(msgpack.packb([1.0, events, None])).events == (AllBlocksCleared(),)


def test_an_epoch_stands_behind_what_vllm_reads() -> None:
    batch = EventBatch(ts=1.0, events=(), epoch=9)
    assert encode_batch(batch) == msgpack.packb([1.0, [], None, 9])
    assert decode_batch(encode_batch(batch)) == batch


def stored(**changes: object) -> dict[str, object]:
    return {**AS_MAPS[1][0], **changes}  # type: ignore[index]


@pytest.mark.parametrize(
    "event",
    [
        7,
        None,
        [],
        {},
        {"type": 7},
        {"type": "BlockRemoved"},
        {"type": "BlockRemoved", "block_hashes": ["text"]},
        {"type": "BlockRemoved", "block_hashes": [b"x" * 65]},
        {"type": "BlockRemoved", "block_hashes": [True]},
        {"type": "BlockRemoved", "block_hashes": [1], "medium": 3},
        stored(token_ids=[1, 2, 3]),
        stored(token_ids=[1, 2, 3, -4]),
        stored(token_ids=[1, 2, 3, 2**32]),
        stored(token_ids=[1, 2, 3, 4.0]),
        stored(token_ids=None),
        stored(block_size=None),
        stored(block_size=2.0),
        stored(block_hashes=[]),
        stored(parent_block_hash="x"),
        stored(extra_keys=[None]),
        stored(extra_keys=[None, "salt"]),
        stored(extra_keys=[None, [[["deep"]]]]),
        stored(extra_keys=[None, [{"a": 1}]]),
        stored(lora_name=3),
        stored(group_idx="x"),
        stored(medium="x" * 5000),
    ],
)
def test_malformed_events_are_refused(event: object) -> None:
    with pytest.raises(MalformedFrame):
        decode_batch(msgpack.packb([1.0, [event], None]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x91" * 3000,
        b"\xdd\xff\xff\xff\xff",
        msgpack.packb(7),
        msgpack.packb(["x", [], None]),
        msgpack.packb([True, [], None]),
        msgpack.packb([math.nan, [], None]),
        msgpack.packb([1.0, None]),
        msgpack.packb([1.0, [], "rank"]),
        msgpack.packb([1.0, [["AllBlocksCleared"]] * (2**16 + 1)]),
        msgpack.packb([1.0, [["BlockRemoved", [0] * (2**17 + 1)]]]),
        msgpack.packb([1.0, [], msgpack.ExtType(1, b"x")]),
        msgpack.packb({1: 2}),
        bytes(MAX_BATCH_BYTES + 1),
    ],
)
def test_what_is_no_batch_within_bounds_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedFrame):
        decode_batch(data)


def test_whatever_comes_is_a_batch_or_malformed() -> None:
    chance = random.Random(1)
    whole = encode_batch(BATCH)
    for cut in range(len(whole)):
        with pytest.raises(MalformedFrame):
            decode_batch(whole[:cut])
    for _ in range(3000):
        data: Any = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            batch = decode_batch(bytes(data))
        except MalformedFrame:
            continue
        assert decode_batch(encode_batch(batch)) == batch
