from __future__ import annotations

from collections.abc import Callable

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.config import Limits
from agentbus.errors import MalformedFrame
from agentbus.messages import Kind
from agentbus.wire import (
    Encoder,
    Joined,
    JoinKey,
    count_batch,
    is_small,
    join_batch,
    pack_parts_head,
    pack_reply_head,
    pack_request_head,
    read_parts_heads,
    read_reply_heads,
    read_request_heads,
)


@given(st.lists(st.integers() | st.text(), max_size=20))
def test_a_batch_is_an_array_of_its_values(values: list[int | str]) -> None:
    values = [value for value in values if isinstance(value, str) or -(2**63) <= value < 2**64]
    batch = join_batch([msgpack.packb(value) for value in values])
    assert msgpack.unpackb(batch) == values
    assert count_batch((batch,)) == len(values)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_the_count_has_every_form(count: int) -> None:
    batch = join_batch([b"\x01"] * count)
    assert msgpack.unpackb(batch, max_array_len=100_000) == [1] * count
    assert count_batch((memoryview(batch),)) == count


def test_a_value_with_buffers_counts_as_one() -> None:
    assert count_batch((b"\x81", b"buffer")) == 1


@pytest.mark.parametrize("frame", [b"", b"\x01", b"\x81", b"\xdc", b"\xdc\x00", b"\xdd\0\0\0"])
def test_what_is_no_array_is_no_batch(frame: bytes) -> None:
    with pytest.raises(MalformedFrame):
        count_batch((frame,))
    with pytest.raises(MalformedFrame):
        count_batch(())


def key(kind: Kind, source: str = "a", target: str = "t", schema: str = "int") -> JoinKey:
    return kind, source, target, schema, 5


def test_values_of_one_topic_sender_and_type_leave_together() -> None:
    joined = Joined(Limits())
    ours = key(Kind.PUBLISH)
    assert joined.fits(ours, 0)
    joined.add(ours, 0, b"", b"\x01")
    assert joined.fits(ours, 0)
    for other in (
        key(Kind.PUBLISH, source="b"),
        key(Kind.PUBLISH, target="u"),
        key(Kind.PUBLISH, schema="str"),
        key(Kind.REPLIES),
    ):
        assert not joined.fits(other, 0)
    joined.add(ours, 0, b"", b"\x02")
    taken = joined.take()
    assert (taken.kind, taken.source, taken.target, taken.schema) == (Kind.PUBLISH, "a", "t", "int")
    assert taken.payloads == (b"\x92\x01\x02",)
    assert joined.size == 0
    assert joined.fits(key(Kind.REPLIES), 0)


def test_requests_that_follow_one_another_leave_together() -> None:
    joined = Joined(Limits())
    ours = key(Kind.REQUESTS)
    traces = [bytes([n]) * 24 for n in range(3)]
    for n, trace in enumerate(traces):
        assert joined.fits(ours, 7 + n)
        assert joined.add(ours, 7 + n, pack_request_head(1000 + n, trace), b"v%d" % n)
    assert not joined.fits(ours, 11)
    taken = joined.take()
    assert (taken.kind, taken.id, taken.hops_left) == (Kind.REQUESTS, 7, 5)
    assert taken.payloads[1:] == (b"v0", b"v1", b"v2")
    assert list(read_request_heads(taken.payloads)) == [
        (1000 + n, trace) for n, trace in enumerate(traces)
    ]


def test_replies_to_any_requests_leave_together() -> None:
    joined = Joined(Limits())
    for number in (9, 2, 2**63):
        joined.add(key(Kind.REPLIES), 0, pack_reply_head(number, 0.5, 0.25), b"v")
    heads = list(read_reply_heads(joined.take().payloads))
    assert heads == [(9, 0.5, 0.25), (2, 0.5, 0.25), (2**63, 0.5, 0.25)]


def test_parts_of_several_streams_leave_together() -> None:
    joined = Joined(Limits())
    for number in (9, 2, 2**63):
        joined.add(key(Kind.PARTS), 0, pack_parts_head(number), b"\x91v")
    taken = joined.take()
    assert taken.payloads[1:] == (b"\x91v",) * 3
    assert list(read_parts_heads(taken.payloads)) == [(9,), (2,), (2**63,)]


@pytest.mark.parametrize("read", [read_request_heads, read_reply_heads, read_parts_heads])
@pytest.mark.parametrize(
    "frames", [(), (b"",), (b"", b"v"), (b"x" * 31, b"v"), (b"x" * 96,), (b"x" * 96, b"v")]
)
def test_heads_without_as_many_values_are_malformed(
    read: Callable[[tuple[bytes, ...]], object], frames: tuple[bytes, ...]
) -> None:
    with pytest.raises(MalformedFrame):
        read(frames)


def test_what_waits_is_bounded() -> None:
    joined = Joined(Limits())
    value = b"x" * 1024
    kept = 1
    while joined.add(key(Kind.PUBLISH), 0, b"", value):
        kept += 1
    assert joined.size == kept * 1024 == 64 * 1024
    assert count_batch(joined.take().payloads) == kept
    kept = 1
    while joined.add(key(Kind.REPLIES), 0, b"head", b""):
        kept += 1
    assert kept == len(joined.take().payloads) - 1 == 12


def test_only_small_single_frames_are_joined() -> None:
    assert is_small((b"x" * 4096,))
    assert not is_small((b"x" * 4097,))
    assert not is_small((b"x", b"buffer"))


@pytest.mark.parametrize(
    "limits", [Limits(frame=512), Limits(frame=16_000), Limits(payloads=4), Limits(header=200)]
)
@pytest.mark.parametrize("kind", [Kind.PUBLISH, Kind.REQUESTS, Kind.REPLIES, Kind.PARTS])
@pytest.mark.parametrize("schema", ["int", "Größe", "x" * 300])
def test_what_waits_can_be_sent(limits: Limits, kind: Kind, schema: str) -> None:
    """Only a message that is sent at once may turn out to be none that can be."""
    joined, encode = Joined(limits), Encoder(limits).encode
    for size in (1, 100, 4000, 4096, 0) * 20:
        more = joined.add(key(kind, schema=schema), 0, b"h" * 32, b"x" * size)
        if more:
            continue
        taken = joined.take()
        if len(taken.payloads) > 2 or (kind is Kind.PUBLISH and count_batch(taken.payloads) > 1):
            encode(taken)
    if joined.size:
        encode(joined.take())
