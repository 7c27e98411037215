from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.errors import MalformedFrame
from agentbus.messages import Kind
from agentbus.wire import Joined, count_batch, is_small, join_batch, published


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


def test_values_of_one_topic_sender_and_type_leave_together() -> None:
    joined = Joined()
    assert joined.fits("a", "topic", "int")
    joined.add("a", "topic", "int", b"\x01")
    assert joined.fits("a", "topic", "int")
    for other in (("b", "topic", "int"), ("a", "other", "int"), ("a", "topic", "str")):
        assert not joined.fits(*other)
    joined.add("a", "topic", "int", b"\x02")
    assert joined.take() == published("a", "topic", "int", (b"\x92\x01\x02",))
    assert joined.size == 0
    assert joined.fits("b", "other", "str")


def test_what_waits_is_bounded() -> None:
    joined = Joined()
    value = b"x" * 1024
    kept = 1
    while joined.add("", "t", "bytes", value):
        kept += 1
    assert joined.size == kept * 1024 == 32 * 1024
    envelope = joined.take()
    assert envelope.kind is Kind.PUBLISH
    assert count_batch(envelope.payloads) == kept


def test_only_small_single_frames_are_joined() -> None:
    assert is_small((b"x" * 4096,))
    assert not is_small((b"x" * 4097,))
    assert not is_small((b"x", b"buffer"))
