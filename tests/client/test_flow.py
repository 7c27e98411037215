from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import anyio
import msgpack
import pytest

from agentbus import Agent, Bus, BusSettings, Call, handler
from agentbus.client.coalesce import Coalescer, Turns
from agentbus.client.flow import MAX_CREDIT, Inflow, Outflow
from agentbus.client.payload import PayloadType, payload_type
from agentbus.client.peers import Peers
from agentbus.errors import AgentbusError, MalformedFrame, NoResponder, PeerLost, RequestCancelled
from agentbus.messages import Envelope, Kind
from agentbus.routing import BROKER
from agentbus.transport import Link, connect_unix, listen_unix
from agentbus.wire import Frames, Hello, failure_envelope, join_batch

from .agents import Count
from .conftest import Pair

pytestmark = pytest.mark.anyio


def joined(window: int, number: int = 0) -> tuple[Inflow, Outflow]:
    """Both ends of a stream, without anything between."""
    loop = asyncio.get_running_loop()
    inflow = Inflow(loop, window, lambda count: outflow.grant(count), number)
    outflow = Outflow(loop, window, lambda value: come(inflow, value))
    return inflow, outflow


def come(inflow: Inflow, *values: int) -> None:
    inflow.spend(len(values))
    inflow.put(values)


@pytest.mark.parametrize("number", [0, 1, 2, 60])
@pytest.mark.parametrize("window", [1, 2, 3, 7, 100])
@pytest.mark.promise("flow.credit")
async def test_never_more_than_a_window_waits(window: int, number: int) -> None:
    inflow, outflow = joined(window, number)
    waiting = most = 0
    seen = []

    async def write() -> None:
        nonlocal waiting, most
        for part in range(50):
            waiting += 1
            most = max(most, waiting)
            if not outflow.push(part):
                await outflow.writable()
        inflow.end()

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        async for value in inflow:
            waiting -= 1
            seen.append(value)
    assert seen == list(range(50))
    assert most <= window


async def test_streams_that_are_read_in_step_give_credit_in_turn() -> None:
    granted: list[tuple[int, int]] = []
    loop = asyncio.get_running_loop()
    flows = [
        Inflow(loop, 16, lambda count, number=number: granted.append((number, count)), number)  # type: ignore[misc]
        for number in range(1, 9)
    ]
    at_part: list[set[int]] = []
    for part in range(40):
        before = len(granted)
        for flow in flows:
            come(flow, part)
            await anext(flow)
        at_part.append({number for number, _ in granted[before:]})
    assert all(len(numbers) <= 1 for numbers in at_part)
    for number in range(1, 9):
        first, *others = [count for who, count in granted if who == number]
        assert first == 1 + number % 8
        assert set(others) == {8}


class Chorus(Agent):
    """All its streams go on at once."""

    concurrency: ClassVar[int] = 40

    def __init__(self) -> None:
        self.go = anyio.Event()

    @handler
    async def sing(self, count: Count, call: Call) -> AsyncGenerator[int, None]:
        for number in range(count.upto):
            await self.go.wait()
            yield 1000 * count.upto + number
            await asyncio.sleep(0)


@pytest.mark.pure
@pytest.mark.promise("order.stream")
async def test_parts_of_many_streams_that_leave_together_come_to_each(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: Counter[Kind] = Counter()
    take = Peers.received

    def received(self: Peers, link: Link, envelopes: list[Envelope]) -> None:
        kinds.update(envelope.kind for envelope in envelopes)
        take(self, link, envelopes)

    monkeypatch.setattr(Peers, "received", received)
    async with Pair("unix", socket_dir).open() as (host, asker):
        chorus = Chorus()
        await host.spawn(chorus, name="chorus")

        async def listen(upto: int) -> None:
            async with asker.stream("chorus", Count(upto=upto)) as parts:
                assert [part async for part in parts] == [1000 * upto + n for n in range(upto)]

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for upto in range(20, 60):
                    group.start_soon(listen, upto)
                await anyio.wait_all_tasks_blocked()
                chorus.go.set()
    assert kinds[Kind.PARTS] > 0


async def test_more_than_was_asked_for_is_an_error() -> None:
    inflow, _ = joined(2)
    come(inflow, 1, 2)
    with pytest.raises(MalformedFrame, match="1 parts"):
        inflow.spend(1)


async def test_credit_is_bounded() -> None:
    _, outflow = joined(1)
    with pytest.raises(MalformedFrame, match="credit"):
        outflow.grant(MAX_CREDIT)


async def test_an_end_comes_behind_the_parts() -> None:
    inflow, outflow = joined(5)
    outflow.push(1)
    inflow.end(RequestCancelled("x"))
    assert await anext(inflow) == 1
    with pytest.raises(RequestCancelled):
        await anext(inflow)


async def test_a_closed_stream_holds_nobody_up() -> None:
    _, outflow = joined(1)
    assert not outflow.push(1)
    outflow.close()
    with anyio.fail_after(1):
        await outflow.writable()
    assert outflow.push(2)


@pytest.mark.promise("ray-59681")
async def test_the_first_goes_at_once_and_what_piles_up_together() -> None:
    sent: list[list[Any]] = []

    def send(kind: PayloadType, frames: Frames) -> None:
        sent.append(kind.decode_batch(frames))

    parts = Coalescer(Turns(asyncio.get_running_loop()), send)
    parts.write("a")
    assert sent == [["a"]]
    parts.write("b")
    parts.write("c")
    assert sent == [["a"]]
    await asyncio.sleep(0)
    assert sent == [["a"], ["b", "c"]]
    parts.write("d")
    assert sent[2:] == [["d"]]
    parts.write("e")
    parts.write(1)
    parts.flush()
    assert sent[3:] == [["e"], [1]]
    await asyncio.sleep(0)
    parts.write("x" * 70_000)
    parts.write("y" * 70_000)
    assert [len(batch) for batch in sent[5:]] == [1, 1]
    await asyncio.sleep(0)


async def test_streams_share_the_turns_of_the_loop() -> None:
    sent: list[tuple[int, list[Any]]] = []
    turns = Turns(asyncio.get_running_loop())

    def stream(who: int) -> Coalescer:
        return Coalescer(turns, lambda kind, frames: sent.append((who, kind.decode_batch(frames))))

    streams = [stream(who) for who in range(3)]
    for part in ("a", "b", "c"):
        for each in streams[:2]:
            each.write(part)
    streams[2].write("late")
    assert sent == [(0, ["a"]), (1, ["a"]), (2, ["late"])]
    await asyncio.sleep(0)
    assert sent[3:] == [(0, ["b", "c"]), (1, ["b", "c"])]
    streams[1].write("d")
    assert sent[5:] == [(1, ["d"])]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_a_batch_is_a_msgpack_array(count: int) -> None:
    frames = [msgpack.packb(number) for number in range(count)]
    assert msgpack.unpackb(join_batch(frames)) == list(range(count))
    assert payload_type(int).decode_batch((join_batch(frames),)) == list(range(count))


class Flooder:
    """A peer that answers each request, or each streamed one, as `answer` says."""

    def __init__(self, answer: Callable[[Link, Envelope], None], kind: Kind | None = None) -> None:
        self._answer = answer
        self._kind = kind
        """Of envelopes that are answered whether they bring credit or not."""
        self.lost = anyio.Event()

    def link_opened(self, link: Link) -> None:
        pass

    def received(self, link: Link, envelopes: Sequence[Envelope]) -> None:
        for envelope in envelopes:
            if envelope.target != BROKER and (envelope.credit or envelope.kind is self._kind):
                self._answer(link, envelope)
            elif envelope.kind is Kind.REQUEST:
                link.send(failure_envelope(envelope.id, NoResponder(envelope.target)))

    def link_broken(self, link: Link) -> None:
        pass

    def link_lost(self, link: Link, error: AgentbusError | None) -> None:
        self.lost.set()


UNREADABLE = b"\xc1"
"""Stands for no value in msgpack: whoever decodes it notices, and says so instead of hanging up."""


def too_many(link: Link, request: Envelope) -> None:
    """Send one part more than there is credit for, in a batch that cannot be decoded."""
    frame = join_batch([UNREADABLE] * (request.credit + 1))
    link.send(Envelope(Kind.PART, request.id, schema="int", payloads=(frame,)))


def large_part(link: Link, request: Envelope) -> None:
    """Use up the credit, then send a part with a buffer, neither of which can be decoded."""
    frame = join_batch([b"\x01"] * request.credit)
    link.send(Envelope(Kind.PART, request.id, schema="int", payloads=(frame,)))
    link.send(Envelope(Kind.PART, request.id, schema="int", payloads=(UNREADABLE, b"buffer")))


def no_batch(link: Link, request: Envelope) -> None:
    link.send(Envelope(Kind.PART, request.id, schema="int", payloads=(b"\x01",)))


def too_much_credit(link: Link, request: Envelope) -> None:
    credit = Envelope(Kind.CREDIT, request.id, schema="FEED", credit=2**40)
    link.send(credit)


@pytest.mark.parametrize("answer", [too_many, large_part, no_batch, too_much_credit])
@pytest.mark.promise("flow.bounded", "flow.credit", "peer.hostile")
async def test_a_peer_that_breaks_the_flow_loses_its_link(
    answer: Callable[[Link, Envelope], None], socket_dir: Path
) -> None:
    path = f"{socket_dir}/run/bus.sock"
    settings = BusSettings(stream_parts=4)
    async with await listen_unix(path, Flooder(answer), Hello(peer="flood"), settings.limits):
        async with Bus.open(f"unix://{path}", settings=settings) as bus:
            bus._sender.types.declare(payload_type(int))
            with anyio.fail_after(5), pytest.raises(PeerLost):
                async with bus.stream("s", Count(upto=3)) as stream:
                    _ = [part async for part in stream]


@pytest.mark.promise("flow.credit", "peer.hostile")
async def test_parts_for_a_request_without_a_stream_are_not_decoded(socket_dir: Path) -> None:
    path = f"{socket_dir}/run/bus.sock"
    flooder = Flooder(too_many, Kind.REQUEST)
    settings = BusSettings(stream_parts=4)
    async with await listen_unix(path, flooder, Hello(peer="flood"), settings.limits):
        async with Bus.open(f"unix://{path}", settings=settings) as bus:
            bus._sender.types.declare(payload_type(int))
            with anyio.fail_after(5), pytest.raises(PeerLost):
                await bus.request("s", Count(upto=3))


class Sum(Agent):
    @handler
    async def sum(self, count: Count, call: Call) -> int:
        return sum([number async for number in call.feed(int)])


def too_many_fed(link: Link, credit: Envelope) -> None:
    frame = join_batch([UNREADABLE] * (credit.credit + 1))
    link.send(Envelope(Kind.FEED, credit.id, schema="int", payloads=(frame,)))


def large_fed(link: Link, credit: Envelope) -> None:
    frame = join_batch([b"\x01"] * credit.credit)
    for payloads in ((frame,), (UNREADABLE, b"buffer")):
        link.send(Envelope(Kind.FEED, credit.id, schema="int", payloads=payloads))


@pytest.mark.parametrize("feed", [too_many_fed, large_fed])
@pytest.mark.promise("flow.credit", "peer.hostile")
async def test_what_is_fed_without_credit_is_not_decoded(
    feed: Callable[[Link, Envelope], None], socket_dir: Path
) -> None:
    path = f"{socket_dir}/run/bus.sock"
    flooder = Flooder(feed)
    settings = BusSettings(stream_parts=4)
    async with Bus.open(listen=path, settings=settings) as bus:
        await bus.spawn(Sum(), name="sum")
        link = await connect_unix(path, flooder, Hello("flood"), settings.limits, timeout=5)
        count = payload_type(Count)
        frames = count.encode(Count(upto=3))
        link.send(Envelope(Kind.REQUEST, 1, "", "sum", count.schema, 4, payloads=frames))
        with anyio.fail_after(5):
            await flooder.lost.wait()
