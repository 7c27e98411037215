from __future__ import annotations

import struct
import tracemalloc

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentbus.config import Limits
from agentbus.errors import (
    FrameTooLarge,
    InvalidMessage,
    InvalidName,
    MalformedFrame,
    ProtocolError,
    TooLarge,
)
from agentbus.messages import Envelope, Kind
from agentbus.wire import MAX_TEXT, Decoder, Encoder, encode

LIMITS = Limits()
SMALL = Limits(header=1024, frame=4096, payloads=3)
REQUEST = Envelope(
    Kind.REQUEST,
    id=1234,
    source="planner",
    target="reviewer/one",
    schema="demo.Draft",
    credit=256,
    remaining_us=9_999_999,
    hops_left=63,
    trace=b"t" * 24,
    context=b"delta",
    payloads=(b"a" * 1024, b"", b"z"),
)

names = st.text(st.characters(codec="ascii"), max_size=MAX_TEXT)
numbers = st.integers(0, 2**63 - 1)
bodies = st.binary(max_size=300)
envelopes = st.builds(
    Envelope,
    kind=st.sampled_from(Kind),
    id=numbers,
    source=names,
    target=names,
    schema=names,
    credit=numbers,
    remaining_us=st.integers(-1, 2**63 - 1),
    hops_left=numbers,
    trace=st.one_of(st.just(b""), st.binary(min_size=24, max_size=24)),
    context=bodies,
    payloads=st.lists(bodies, max_size=3).map(tuple),
    budget=st.none() | st.tuples(st.integers(0, 2**62), st.integers(0, 2**62)),
)


def frame(*fields: object, body: bytes = b"") -> bytes:
    """A frame with any header at all."""
    header: bytes = msgpack.packb(fields)
    return struct.pack(">IH", 2 + len(header) + len(body), len(header)) + header + body


def fields_of(**changes: object) -> tuple[object, ...]:
    fields: dict[str, object] = {
        "kind": 2,
        "id": 1,
        "source": "a",
        "target": "b",
        "schema": "S",
        "credit": 0,
        "remaining_us": -1,
        "hops_left": 1,
        "trace": b"",
        "context_size": 0,
        "sizes": (),
    }
    return (*(fields | changes).values(),)


def whole(envelope: Envelope, limits: Limits = LIMITS) -> bytes:
    return b"".join(encode(envelope, limits))


@given(envelope=envelopes)
@settings(deadline=None)
def test_what_the_encoder_accepts_the_decoder_gives_back(envelope: Envelope) -> None:
    data = whole(envelope)
    (received,) = Decoder(LIMITS).feed(data)
    assert received == envelope
    assert received.size == len(data)


@given(sent=st.lists(envelopes, max_size=4), data=st.data())
@settings(deadline=None)
def test_any_chunking_gives_the_same_envelopes(sent: list[Envelope], data: st.DataObject) -> None:
    stream = b"".join(map(whole, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder = Decoder(LIMITS)
    received = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += decoder.feed(stream[start:end])
    assert received == sent


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_stream_in_equal_pieces(size: int, kind: type[bytes | bytearray | memoryview]) -> None:
    stream = whole(REQUEST) * 3
    decoder = Decoder(LIMITS)
    received = []
    for start in range(0, len(stream), size):
        received += decoder.feed(kind(stream[start : start + size]))
    assert received == [REQUEST] * 3


def test_every_truncation_waits_for_the_rest() -> None:
    stream = whole(REQUEST)
    for end in range(len(stream)):
        decoder = Decoder(LIMITS)
        assert decoder.feed(stream[:end]) == []
        assert decoder.feed(stream[end:]) == [REQUEST]


def test_a_typical_request_has_a_small_header() -> None:
    request = Envelope(
        Kind.REQUEST,
        id=100_000,
        source="researcher",
        target="reviewer",
        schema="demo.Draft",
        remaining_us=10_000_000,
        hops_left=64,
        trace=b"t" * 24,
        payloads=(b"x" * 1024,),
    )
    assert len(whole(request)) - 1024 < 90


def test_large_payloads_are_neither_copied_to_be_sent_nor_when_received() -> None:
    body = b"x" * 300_000
    sent = Envelope(Kind.REPLY, id=1, payloads=(b"small", body))
    buffers = encode(sent, LIMITS)
    assert any(buffer is body for buffer in buffers)
    decoder = Decoder(LIMITS)
    stream = b"".join(buffers)
    assert decoder.feed(stream[:1000]) == []
    (received,) = decoder.feed(stream[1000:] + whole(REQUEST)[:50])
    assert received == sent
    large = received.payloads[1]
    assert isinstance(large, memoryview) and large.readonly
    assert decoder.feed(whole(REQUEST)[50:]) == [REQUEST]
    assert received == sent


def test_a_view_of_other_items_is_sent_as_its_bytes() -> None:
    grid = memoryview(struct.pack("4i", 1, 2, 3, 4)).cast("i", (2, 2))
    (received,) = Decoder(LIMITS).feed(whole(Envelope(Kind.REPLY, id=1, payloads=(grid,))))
    assert received.payloads == (struct.pack("4i", 1, 2, 3, 4),)


@pytest.mark.parametrize(
    ("envelope", "error"),
    [
        (Envelope(Kind.REPLY, payloads=(b"x" * 4096,)), TooLarge),
        (Envelope(Kind.REPLY, context=b"x" * 4096), TooLarge),
        (Envelope(Kind.REPLY, source="x" * (MAX_TEXT + 1)), TooLarge),
        (Envelope(Kind.REPLY, target="x" * (MAX_TEXT + 1)), TooLarge),
        (Envelope(Kind.REPLY, schema="x" * (MAX_TEXT + 1)), TooLarge),
        (Envelope(Kind.REPLY, schema="Größe"), InvalidName),
        (Envelope(Kind.REPLY, payloads=(b"",) * 4), InvalidMessage),
        (Envelope(Kind.REPLY, payloads=(memoryview(b"abcd")[::2],)), InvalidMessage),
        (Envelope(Kind.REPLY, id=-1), InvalidMessage),
        (Envelope(Kind.REPLY, id=2**63), InvalidMessage),
        (Envelope(Kind.REPLY, remaining_us=-2), InvalidMessage),
        (Envelope(Kind.REPLY, hops_left=-1), InvalidMessage),
        (Envelope(Kind.REPLY, trace=b"short"), InvalidMessage),
    ],
)
def test_the_sender_refuses_what_the_receiver_would(
    envelope: Envelope, error: type[Exception]
) -> None:
    encoder = Encoder(SMALL)
    with pytest.raises(error):
        encoder.encode(envelope)
    good = Envelope(Kind.REPLY, id=1)
    assert Decoder(SMALL).feed(b"".join(encoder.encode(good))) == [good]


def test_the_sender_refuses_a_header_over_its_limit() -> None:
    with pytest.raises(TooLarge, match="header"):
        encode(Envelope(Kind.REPLY, source="x" * 200), Limits(header=100))


def test_a_frame_of_exactly_the_limit_passes() -> None:
    frame_without = len(whole(Envelope(Kind.REPLY, id=1, payloads=(b"x" * 3000,)), SMALL)) - 3000
    room = SMALL.frame - (frame_without - 4)
    fits = Envelope(Kind.REPLY, id=1, payloads=(b"x" * room,))
    assert Decoder(SMALL).feed(whole(fits, SMALL)) == [fits]
    with pytest.raises(TooLarge):
        encode(Envelope(Kind.REPLY, id=1, payloads=(b"x" * (room + 1),)), SMALL)


@pytest.mark.parametrize(
    "fields",
    [
        fields_of()[:-1],
        (*fields_of(), "from a newer version"),
        fields_of(kind=0),
        fields_of(kind=99),
        fields_of(kind=True),
        fields_of(kind=-1),
        fields_of(kind="2"),
        fields_of(id=-1),
        fields_of(id=1.5),
        fields_of(source=None),
        fields_of(source=b"a"),
        fields_of(target="ä"),
        fields_of(target="x" * (MAX_TEXT + 1)),
        fields_of(schema="x" * 300),
        fields_of(credit=-1),
        fields_of(credit=True),
        fields_of(remaining_us=-2),
        fields_of(remaining_us=False),
        fields_of(hops_left=-1),
        fields_of(trace=b"x" * 23),
        fields_of(trace="x" * 24),
        fields_of(context_size=-1),
        fields_of(context_size=1),
        fields_of(sizes=(1,)),
        fields_of(sizes=(1, -1)),
        fields_of(sizes=(True, False)),
        fields_of(sizes=("1",)),
        fields_of(sizes=(2**63,)),
        fields_of(sizes=(0,) * 257),
        fields_of(sizes=[[[[]]]]),
        fields_of(sizes={}),
        fields_of(sizes={1: 2}),
        fields_of(sizes=msgpack.ExtType(4, b"x")),
        fields_of(sizes=msgpack.Timestamp(1, 2)),
        fields_of(budget=None),
        fields_of(budget=5),
        fields_of(budget=()),
        fields_of(budget=(1,)),
        fields_of(budget=(1, 2, 3)),
        fields_of(budget=(-1, 0)),
        fields_of(budget=(0, -1)),
        fields_of(budget=(1.5, 0)),
        fields_of(budget=(0, float("nan"))),
        fields_of(budget=(0, float("inf"))),
        fields_of(budget=(True, 0)),
        fields_of(budget=("1", 0)),
        fields_of(budget=(2**62 + 1, 0)),
        fields_of(budget=(0, 2**64 - 1)),
        fields_of(budget={0: 1}),
        (*fields_of(budget=(1, 2)), "from a newer version"),
    ],
)
def test_wrong_headers_are_malformed(fields: tuple[object, ...]) -> None:
    with pytest.raises(MalformedFrame):
        Decoder(LIMITS).feed(frame(*fields))


@pytest.mark.parametrize(
    "budget",
    [
        (-1, 0),
        (0, 2**62 + 1),
        pytest.param((0.5, 0), marks=pytest.mark.pure),
        pytest.param((1,), marks=pytest.mark.pure),
    ],
)
def test_a_budget_that_no_peer_would_take_is_not_sent(budget: tuple[int, int]) -> None:
    with pytest.raises(InvalidMessage, match="budget"):
        encode(Envelope(Kind.REQUEST, budget=budget), LIMITS)


def test_a_header_without_a_budget_is_no_longer_for_it() -> None:
    with_budget = Envelope(Kind.REQUEST, id=1, budget=(1, 2))
    assert len(whole(with_budget)) == len(whole(Envelope(Kind.REQUEST, id=1))) + 3


@pytest.mark.parametrize(
    "data",
    [
        bytes(6),
        struct.pack(">IH", 2, 0),
        struct.pack(">IH", 3, 2) + b"\x90\x90",
        struct.pack(">IH", 3, 1) + b"\xc1",
        struct.pack(">IH", 4, 2) + b"\x90\x90",
        struct.pack(">IH", 3, 1) + b"\x9b",
        struct.pack(">IH", 7, 5) + b"\xdd\xff\xff\xff\xff",
        struct.pack(">IH", 1002, 1000) + b"\x91" * 1000,
        frame(*fields_of(), body=b"left over"),
        frame(*fields_of(sizes=(1,)), body=b"xy"),
        frame(*fields_of(sizes=(-1, 2)), body=b"x"),
        frame(*fields_of(context_size=-1, sizes=(2,)), body=b"x"),
        frame(*fields_of(sizes=(True,)), body=b"x"),
        frame(*fields_of(context_size=3, sizes=(1,)), body=b"xyz"),
        struct.pack(">IH", 5, 3) + b"\x80" + b"\xa1\xff",
    ],
)
def test_wrong_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedFrame):
        Decoder(LIMITS).feed(data)


def test_more_payloads_than_the_limit_are_malformed() -> None:
    Decoder(SMALL).feed(frame(*fields_of(sizes=(0,) * 3)))
    with pytest.raises(MalformedFrame):
        Decoder(SMALL).feed(frame(*fields_of(sizes=(0,) * 4)))


def test_a_size_over_the_limit_is_refused_before_its_bytes_come() -> None:
    with pytest.raises(FrameTooLarge):
        Decoder(SMALL).feed(struct.pack(">IH", 4097, 10))
    with pytest.raises(FrameTooLarge):
        Decoder(SMALL).feed(struct.pack(">IH", 2000, 1025))
    decoder = Decoder(SMALL)
    decoder.feed(b"\xff\xff\xff")
    with pytest.raises(FrameTooLarge):
        decoder.feed(b"\xff\x00\x01")


def test_a_header_longer_than_its_frame_is_refused_before_its_bytes_come() -> None:
    for pieces in ([struct.pack(">IH", 100, 99)], [b"\0\0\0", b"\x64\0\x63"]):
        decoder = Decoder(SMALL)
        with pytest.raises(MalformedFrame, match="longer than its frame"):
            for piece in pieces:
                decoder.feed(piece)


@pytest.mark.parametrize("size", [1, 13, 10_000])
def test_good_frames_before_a_bad_one_are_not_lost(size: int) -> None:
    stream = whole(REQUEST) * 2 + frame(*fields_of(kind=99)) + whole(REQUEST)
    decoder = Decoder(LIMITS)
    received: list[Envelope] = []
    with pytest.raises(MalformedFrame):
        for start in range(0, len(stream) + size, size):
            received += decoder.feed(stream[start : start + size])
    assert received == [REQUEST, REQUEST]
    assert isinstance(decoder.error, MalformedFrame)
    with pytest.raises(MalformedFrame):
        decoder.feed(whole(REQUEST))


@given(data=st.binary(max_size=200))
@settings(deadline=None)
def test_random_bytes_are_an_envelope_or_a_declared_error(data: bytes) -> None:
    decoder = Decoder(SMALL)
    try:
        decoder.feed(data)
    except ProtocolError as error:
        assert error is decoder.error


def test_a_frame_in_single_bytes_holds_no_more_than_the_frame() -> None:
    body = bytes(200_000)
    stream = whole(Envelope(Kind.REPLY, id=1, payloads=(body,)))
    decoder = Decoder(LIMITS)
    tracemalloc.start()
    try:
        for start in range(0, 150_000, 10):
            decoder.feed(stream[start : start + 10])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 200_000
    (received,) = decoder.feed(stream[150_000:])
    assert received.payloads == (body,)
