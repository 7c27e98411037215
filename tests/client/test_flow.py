from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import msgpack
import pytest

from agentbus import Bus, BusSettings
from agentbus.client.coalesce import Coalescer
from agentbus.client.flow import MAX_CREDIT, Inflow, Outflow
from agentbus.client.payload import PayloadType, payload_type
from agentbus.errors import AgentbusError, MalformedFrame, NoResponder, PeerLost, RequestCancelled
from agentbus.messages import Envelope, Kind
from agentbus.transport import Link, listen_unix
from agentbus.wire import Frames, Hello, failure_envelope, join_batch

from .agents import Count

pytestmark = pytest.mark.anyio


def joined(window: int) -> tuple[Inflow, Outflow]:
    """Both ends of a stream, without anything between."""
    loop = asyncio.get_running_loop()
    inflow = Inflow(loop, window, lambda count: outflow.grant(count))
    outflow = Outflow(loop, window, lambda value: inflow.put((value,)))
    return inflow, outflow


@pytest.mark.parametrize("window", [1, 2, 3, 7, 100])
@pytest.mark.promise("flow.credit")
async def test_never_more_than_a_window_waits(window: int) -> None:
    inflow, outflow = joined(window)
    waiting = most = 0
    seen = []

    async def write() -> None:
        nonlocal waiting, most
        for number in range(50):
            waiting += 1
            most = max(most, waiting)
            if not outflow.push(number):
                await outflow.writable()
        inflow.end()

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        async for value in inflow:
            waiting -= 1
            seen.append(value)
    assert seen == list(range(50))
    assert most <= window


async def test_more_than_was_asked_for_is_an_error() -> None:
    inflow, _ = joined(2)
    inflow.put((1, 2))
    with pytest.raises(MalformedFrame, match="1 parts"):
        inflow.put((3,))


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

    parts = Coalescer(asyncio.get_running_loop(), send)
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


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_a_batch_is_a_msgpack_array(count: int) -> None:
    frames = [msgpack.packb(number) for number in range(count)]
    assert msgpack.unpackb(join_batch(frames)) == list(range(count))
    assert payload_type(int).decode_batch((join_batch(frames),)) == list(range(count))


class Flooder:
    """A peer that answers each streamed request as `answer` says."""

    def __init__(self, answer: Callable[[Link, Envelope], None]) -> None:
        self._answer = answer

    def link_opened(self, link: Link) -> None:
        pass

    def received(self, link: Link, envelopes: Sequence[Envelope]) -> None:
        for envelope in envelopes:
            if envelope.credit:
                self._answer(link, envelope)
            elif envelope.kind is Kind.REQUEST:
                link.send(failure_envelope(envelope.id, NoResponder(envelope.target)))

    def link_broken(self, link: Link) -> None:
        pass

    def link_lost(self, link: Link, error: AgentbusError | None) -> None:
        pass


def too_many(link: Link, request: Envelope) -> None:
    frame = join_batch([b"\x01"] * (request.credit + 1))
    link.send(Envelope(Kind.PART, request.id, schema="int", payloads=(frame,)))


def too_much_credit(link: Link, request: Envelope) -> None:
    credit = Envelope(Kind.CREDIT, request.id, schema="FEED", credit=2**40)
    link.send(credit)


@pytest.mark.parametrize("answer", [too_many, too_much_credit])
@pytest.mark.promise("flow.bounded", "peer.hostile")
async def test_a_peer_that_breaks_the_flow_loses_its_link(
    answer: Callable[[Link, Envelope], None], socket_dir: Any
) -> None:
    path = f"{socket_dir}/run/bus.sock"
    settings = BusSettings(stream_parts=4)
    async with await listen_unix(path, Flooder(answer), Hello(peer="flood"), settings.limits):
        async with Bus.open(f"unix://{path}", settings=settings) as bus:
            bus._sender.types.declare(payload_type(int))
            with anyio.fail_after(5), pytest.raises(PeerLost):
                async with bus.stream("s", Count(upto=3)) as stream:
                    _ = [part async for part in stream]
