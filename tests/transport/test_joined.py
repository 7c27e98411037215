"""Small messages leave a link together, in order with all else, and none is lost."""

from __future__ import annotations

import msgpack
import pytest

from agentbus.config import Limits
from agentbus.errors import Closed, LinkFull
from agentbus.messages import Kind
from agentbus.wire import (
    is_small,
    pack_parts_head,
    pack_reply_head,
    pack_request_head,
    published,
    read_parts_heads,
    read_reply_heads,
)

from .helpers import Pair, request

pytestmark = pytest.mark.anyio


def received(pair: Pair) -> list[object]:
    """What came to b: the values of each published envelope, the ids of others."""
    return [
        msgpack.unpackb(envelope.payloads[0]) if envelope.kind is Kind.PUBLISH else envelope.id
        for envelope in pair.b.envelopes
    ]


def publish(pair: Pair, value: object, *, target: str = "t", source: str = "s") -> int:
    """As `Topics` does it."""
    frames = (msgpack.packb(value),)
    if pair.link_a.joins and is_small(frames):
        return pair.link_a.join((Kind.PUBLISH, source, target, "any", 0), 0, b"", frames[0])
    return pair.link_a.send(published(source, target, "any", frames))


async def test_values_of_one_turn_leave_in_few_envelopes_and_in_order(pair: Pair) -> None:
    for number in range(100):
        publish(pair, number)
    await pair.b.until(lambda: sum(map(len, received(pair))) == 100)  # type: ignore[arg-type]
    batches = received(pair)
    assert [value for batch in batches for value in batch] == list(range(100))  # type: ignore[attr-defined]
    assert batches[0] == [0]  # the first is not held back
    assert len(batches) == 2


async def test_other_topics_senders_and_requests_keep_the_order(pair: Pair) -> None:
    pair.link_a.send(request(1, b"x"))
    publish(pair, "a")
    publish(pair, "b")
    publish(pair, "c", target="other")
    publish(pair, "d", target="other", source="else")
    pair.link_a.send(request(2, b"x"))
    publish(pair, "e")
    await pair.b.until_received(6)
    assert received(pair) == [1, ["a", "b"], ["c"], ["d"], 2, ["e"]]


async def test_large_values_and_those_with_buffers_go_alone(pair: Pair) -> None:
    pair.link_a.send(request(1, b"x"))
    publish(pair, "small")
    publish(pair, "x" * 10_000)
    pair.link_a.send(published("s", "t", "any", (b"\x01", b"a buffer")))
    await pair.b.until_received(4)
    small, large, buffers = pair.b.envelopes[1:]
    assert msgpack.unpackb(small.payloads[0]) == ["small"]
    assert msgpack.unpackb(large.payloads[0]) == ["x" * 10_000]
    assert [bytes(part) for part in buffers.payloads] == [b"\x01", b"a buffer"]


async def test_what_waits_leaves_before_an_orderly_close(pair: Pair) -> None:
    pair.link_a.send(request(1, b"x"))
    publish(pair, "last")
    await pair.link_a.aclose()
    await pair.b.until_lost()
    assert received(pair) == [1, ["last"]]
    with pytest.raises(Closed):
        publish(pair, "too late")


@pytest.mark.parametrize("limits", [Limits(write_buffer=100_000)])
async def test_a_link_that_is_full_refuses_and_keeps_what_it_took(pair: Pair) -> None:
    taken = 0
    with pytest.raises(LinkFull):
        while taken < 10_000:
            publish(pair, [taken, "x" * 1000])
            taken += 1
    assert 50 < taken < 10_000
    await pair.b.until(lambda: sum(map(len, received(pair))) == taken)  # type: ignore[arg-type]
    numbers = [value[0] for batch in received(pair) for value in batch]  # type: ignore[attr-defined]
    assert numbers == list(range(taken))


async def test_requests_and_replies_are_joined_in_their_place(pair: Pair) -> None:
    key = (Kind.REQUESTS, "s", "echo", "any", 3)
    pair.link_a.send(request(1, b"x"))
    for number in (2, 3):
        pair.link_a.join(key, number, pack_request_head(1000, b"t" * 24), b"v")
    pair.link_a.send(request(4, b"x"))
    pair.link_a.join(key, 5, pack_request_head(1000, b"t" * 24), b"v")
    await pair.b.until_received(4)
    assert [(e.kind, e.id, len(e.payloads)) for e in pair.b.envelopes] == [
        (Kind.REQUEST, 1, 1),
        (Kind.REQUESTS, 2, 3),
        (Kind.REQUEST, 4, 1),
        (Kind.REQUESTS, 5, 2),
    ]


async def test_replies_leave_together_behind_the_last_parts_of_their_streams(pair: Pair) -> None:
    parts = (Kind.PARTS, "", "", "any", 0)
    replies = (Kind.REPLIES, "", "", "any", 0)
    pair.link_a.send(request(1, b"x"))
    for number in (7, 8, 9):
        pair.link_a.join(parts, 0, pack_parts_head(number), b"v")
        pair.link_a.join(replies, 0, pack_reply_head(number, 0.0, 0.0), b"v")
    pair.link_a.send(request(2, b"x"))
    await pair.b.until_received(4)
    assert [e.kind for e in pair.b.envelopes] == [
        Kind.REQUEST,
        Kind.PARTS,
        Kind.REPLIES,
        Kind.REQUEST,
    ]
    assert [number for (number,) in read_parts_heads(pair.b.envelopes[1].payloads)] == [7, 8, 9]
    assert [head[0] for head in read_reply_heads(pair.b.envelopes[2].payloads)] == [7, 8, 9]


async def test_joined_replies_are_not_lost_when_the_link_closes(pair: Pair) -> None:
    pair.link_a.send(request(1, b"x"))
    pair.link_a.join((Kind.REPLIES, "", "", "any", 0), 0, pack_reply_head(7, 0.0, 0.0), b"v")
    await pair.link_a.aclose()
    await pair.b.until_lost()
    assert [e.kind for e in pair.b.envelopes] == [Kind.REQUEST, Kind.REPLIES]
