from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.demo.sse import MAX_EVENT_BYTES, EventDecoder, encode_event
from agentbus.errors import FrameTooLarge, MalformedFrame

events = st.lists(st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=3))


@given(events, st.integers(1, 7))
def test_events_survive_any_cut(said: list[dict[str, str]], size: int) -> None:
    data = b"".join(map(encode_event, said))
    decoder = EventDecoder()
    found = [e for i in range(0, len(data), size) for e in decoder.feed(data[i : i + size])]
    assert found == said


@given(st.binary(max_size=60))
def test_noise_ends_in_a_declared_error(noise: bytes) -> None:
    decoder = EventDecoder()
    try:
        found = decoder.feed(noise + b"\n\n")
    except MalformedFrame:
        return
    assert all(isinstance(event, dict) for event in found)


@pytest.mark.parametrize("event", [b"id: 1", b"data: {", b"data: [1]", b""])
def test_what_is_not_one_json_object_is_refused(event: bytes) -> None:
    with pytest.raises(MalformedFrame):
        EventDecoder().feed(event + b"\n\n")


def test_an_endless_event_is_refused_before_it_ends() -> None:
    decoder = EventDecoder()
    decoder.feed(b"x" * MAX_EVENT_BYTES)
    with pytest.raises(FrameTooLarge):
        decoder.feed(b"x")
