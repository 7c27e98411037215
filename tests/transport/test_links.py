"""What every link promises, over each transport and on both loops."""

from __future__ import annotations

import anyio
import pytest

from agentbus.config import Limits
from agentbus.errors import Closed, LinkFull, PeerLost, TooLarge
from agentbus.messages import Envelope, Kind
from agentbus.transport import Link

from .helpers import HELLO_A, HELLO_B, Pair, request

pytestmark = pytest.mark.anyio


async def test_both_sides_know_each_other_once_open(pair: Pair) -> None:
    assert (pair.link_a.peer, pair.link_b.peer) == (HELLO_B, HELLO_A)
    assert pair.a.events == pair.b.events == ["opened"]


async def test_envelopes_arrive_whole_and_in_order_both_ways(pair: Pair) -> None:
    there = [request(n, bytes(n % 300)) for n in range(1, 501)]
    back = [Envelope(Kind.REPLY, id=n, context=b"c" * n) for n in range(1, 501)]
    for one, other in zip(there, back, strict=True):
        pair.link_a.send(one)
        pair.link_b.send(other)
    await pair.b.until_received(500)
    await pair.a.until_received(500)
    assert (pair.b.envelopes, pair.a.envelopes) == (there, back)


async def test_every_byte_is_counted(pair: Pair) -> None:
    before = pair.link_a.bytes_sent
    sizes = [pair.link_a.send(request(n, b"x" * n)) for n in (1, 100, 100_000)]
    await pair.b.until_received(3)
    assert pair.link_a.bytes_sent - before == sum(sizes)
    assert pair.link_b.bytes_received == pair.link_a.bytes_sent
    assert sizes[0] < 60


async def test_large_payloads_go_between_small_ones(pair: Pair) -> None:
    sent = [request(n, b"x" * (700_000 if n % 3 == 0 else 10)) for n in range(1, 10)]
    for envelope in sent:
        pair.link_a.send(envelope)
    await pair.b.until_received(len(sent))
    assert pair.b.envelopes == sent


@pytest.mark.parametrize("limits", [Limits(write_buffer=1_000_000)])
@pytest.mark.promise("slim-1669")
async def test_a_full_link_refuses_and_goes_on_when_it_is_read(pair: Pair) -> None:
    sent = 0
    with pytest.raises(LinkFull) as caught:
        while True:
            pair.link_a.send(request(sent + 1, b"x" * 100_000))
            sent += 1
    assert (caught.value.peer, caught.value.limit) == ("b", 1_000_000)
    assert 9 <= sent < 100
    await pair.b.until_received(sent)
    pair.link_a.send(request(sent + 2))
    await pair.b.until_received(sent + 1)
    assert [envelope.id for envelope in pair.b.envelopes] == [*range(1, sent + 1), sent + 2]


async def test_a_link_pauses_who_can_wait(pair: Pair) -> None:
    assert not pair.link_a.paused
    await pair.link_a.drain()
    for number in range(1, 41):
        pair.link_a.send(request(number, b"x" * 100_000))
    assert pair.link_a.paused
    with anyio.fail_after(5):
        await pair.link_a.drain()
    assert not pair.link_a.paused
    await pair.b.until_received(40)


async def test_what_is_too_large_harms_nothing(pair: Pair) -> None:
    with pytest.raises(TooLarge):
        # Each part is under the size from which a link would share memory.
        pair.link_a.send(Envelope(Kind.REQUEST, 1, payloads=(bytes(200_000),) * 85))
    pair.link_a.send(request(2))
    await pair.b.until_received(1)


async def test_an_orderly_close_delivers_what_was_sent_before(pair: Pair) -> None:
    for number in range(1, 11):
        pair.link_a.send(request(number, b"x" * 100_000))
    with anyio.fail_after(5):
        await pair.link_a.aclose()
        await pair.link_b.aclose()
    assert pair.b.events == ["opened", *["envelope"] * 10, "lost"]
    assert pair.a.events == ["opened", "lost"]
    assert pair.a.lost == pair.b.lost == [None]
    for link in (pair.link_a, pair.link_b):
        with pytest.raises(Closed):
            link.send(request(99))
        with pytest.raises(Closed):
            await link.drain()


async def test_both_sides_may_close_at_once_and_twice(pair: Pair) -> None:
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for link in (pair.link_a, pair.link_b, pair.link_a):
                tasks.start_soon(link.aclose)
    assert pair.a.lost == pair.b.lost == [None]


async def test_nothing_is_delivered_once_the_close_began(pair: Pair) -> None:
    pair.link_b.send(request(1))
    with anyio.fail_after(5):
        await pair.link_a.aclose()
    assert pair.a.events == ["opened", "lost"]


async def test_a_close_that_is_cancelled_goes_on(pair: Pair) -> None:
    pair.link_a.send(request(1))
    with anyio.CancelScope() as scope:
        scope.cancel()
        await pair.link_a.aclose()
    await pair.b.until_lost()
    await pair.a.until_lost()
    assert pair.b.events == ["opened", "envelope", "lost"]
    assert pair.a.lost == pair.b.lost == [None]


async def test_an_abort_is_the_loss_of_the_peer(pair: Pair) -> None:
    pair.link_a.abort()
    with pytest.raises(Closed):
        pair.link_a.send(request(1))
    pair.link_a.abort()
    await pair.a.until_lost()
    await pair.b.until_lost()
    with anyio.fail_after(5):
        await pair.link_a.aclose()
        await pair.link_b.aclose()
    assert pair.a.lost == [None]
    (error,) = pair.b.lost
    assert isinstance(error, PeerLost) and error.peer == "a"
    with pytest.raises(Closed):
        pair.link_b.send(request(1))


async def test_an_owner_may_drop_the_link_while_it_is_called(pair: Pair) -> None:
    def drop(link: Link, _: Envelope) -> None:
        link.abort()

    pair.b.on_envelope = drop
    for number in range(1, 6):
        pair.link_a.send(request(number))
    await pair.b.until_lost()
    await pair.a.until_lost()
    assert pair.b.events == ["opened", "envelope", "lost"]
    assert isinstance(pair.a.lost[0], PeerLost)


async def test_an_owner_may_answer_while_it_is_called(pair: Pair) -> None:
    def answer(link: Link, envelope: Envelope) -> None:
        link.send(Envelope(Kind.REPLY, id=envelope.id))

    pair.b.on_envelope = answer
    for number in range(1, 6):
        pair.link_a.send(request(number))
    await pair.a.until_received(5)
    assert [envelope.id for envelope in pair.a.envelopes] == [1, 2, 3, 4, 5]


async def test_a_request_id_that_does_not_rise_ends_the_link_with_the_reason(pair: Pair) -> None:
    pair.link_a.send(request(2))
    pair.link_a.send(request(2))
    await pair.b.until_lost()
    await pair.a.until_lost()
    assert pair.b.events == ["opened", "envelope", "lost"]
    for error in (*pair.a.lost, *pair.b.lost):
        assert "request 2 came after request 2" in str(error)


async def test_who_waits_for_a_link_learns_that_it_is_lost(pair: Pair) -> None:
    for number in range(1, 61):
        pair.link_a.send(request(number, b"x" * 100_000))
    async with anyio.create_task_group() as tasks:

        async def wait() -> None:
            with pytest.raises(Closed):
                await pair.link_a.drain()

        tasks.start_soon(wait)
        tasks.start_soon(wait)
        pair.link_a.abort()
