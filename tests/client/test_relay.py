"""Requests that the broker carries on: to processes out of reach, and to groups."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from pydantic import BaseModel

from agentbus import Agent, Bus, BusSettings, Call, Limits, handler
from agentbus.client.payload import payload_type
from agentbus.daemon import start_broker
from agentbus.errors import (
    AgentbusError,
    ConfigError,
    DeadlineExceeded,
    HandlerFailed,
    NameTaken,
    NoHandler,
    NoResponder,
    PeerLost,
)
from agentbus.messages import Envelope, Kind
from agentbus.routing import Location
from agentbus.transport import Link, connect_unix
from agentbus.wire import Hello

from .agents import Boom, Count, Echo, Hold, Ping, Pong, Say
from .test_feeds import Adder

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def apart(folder: Path, settings: BusSettings | None = None) -> AsyncIterator[list[Bus]]:
    """A broker and two processes whose only way to each other leads through it."""
    path = f"{folder}/run/bus.sock"
    async with AsyncExitStack() as stack:
        home = await stack.enter_async_context(
            Bus.open(listen=path, name="broker", settings=settings)
        )
        await start_broker(home)
        joined = [
            await stack.enter_async_context(Bus.open(f"unix://{path}", settings=settings))
            for _ in range(3)
        ]
        for bus in joined:
            bus._sender.routes._home_is_far = True
        yield [home, *joined]


async def test_a_request_and_its_context(socket_dir: Path) -> None:
    async with apart(socket_dir) as (home, host, asker, _):
        await host.spawn(Echo(), name="echo")
        assert len(list(asker._sender.peers)) == 1
        context = asker.context().document("d" * 5000)
        first = await asker.call("echo", Say(text="one"), context=context)
        assert first.context == context.message("echo", "one")
        assert first.account.handle_s > 0
        second = await asker.call("echo", Say(text="two"), context=first.context)
        assert second.context is not None
        assert second.account.sent_bytes < 256
        assert not home._sender.peers.named(host.name).outgoing  # type: ignore[union-attr]
        assert not home._sender.peers.named(asker.name).incoming  # type: ignore[union-attr]


async def test_errors_keep_their_class(socket_dir: Path) -> None:
    async with apart(socket_dir) as (_, host, asker, _):
        await host.spawn(Echo(), name="echo")
        with pytest.raises(HandlerFailed, match="over the edge"):
            await asker.request("echo", Boom(text="over the edge"))
        with pytest.raises(NoHandler):
            await asker.request("echo", 1.5)
        with pytest.raises(NoResponder):
            await asker.request("nobody", Ping(number=1))
        assert (await asker.request("echo", Ping(number=1), returns=Pong)).number == 1


async def test_a_stream_keeps_its_flow(socket_dir: Path) -> None:
    async with apart(socket_dir, BusSettings(stream_parts=4)) as (_, host, asker, _):
        await host.spawn(Echo(), name="echo")
        async with asker.stream("echo", Count(upto=500)) as parts:
            assert [part async for part in parts] == list(range(500))


async def test_a_feed_goes_the_other_way(socket_dir: Path) -> None:
    async with apart(socket_dir, BusSettings(stream_parts=4)) as (_, host, asker, _):
        await host.spawn(Adder(), name="adder")
        async with asker.stream("adder", Ping(number=0)) as stream:
            for number in range(1, 50):
                await stream.send(number)
                assert await anext(stream) == number * (number + 1) // 2
            stream.finish()
            assert [part async for part in stream] == []


async def test_cancellation_and_deadlines_reach_the_handler(socket_dir: Path) -> None:
    async with apart(socket_dir) as (home, host, asker, _):
        echo = Echo()
        await host.spawn(echo, name="echo")
        with pytest.raises(DeadlineExceeded):
            await asker.request("echo", Hold(), deadline=0.2)
        with anyio.fail_after(5):
            await echo.cancelled.wait()
        echo.held, echo.cancelled = anyio.Event(), anyio.Event()
        async with asker.stream("echo", Hold()):
            with anyio.fail_after(5):
                await echo.held.wait()
        with anyio.fail_after(5):
            await echo.cancelled.wait()
        assert not home._sender.peers.named(host.name).outgoing  # type: ignore[union-attr]


async def test_a_process_that_dies_fails_what_it_had(socket_dir: Path) -> None:
    async with apart(socket_dir) as (_, host, asker, _):
        echo = Echo()
        await host.spawn(echo, name="echo")
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                with pytest.raises(PeerLost, match=host.name):
                    await asker.request("echo", Hold())

            group.start_soon(ask)
            with anyio.fail_after(5):
                await echo.held.wait()
            for peer in host._sender.peers:
                peer.link.abort()


class Job(BaseModel):
    number: int


class Worker(Agent):
    """Does jobs, one at a time, when told to go on."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.most = self.now = 0
        self.busy = anyio.Event()
        self.go = anyio.Event()

    @handler
    async def work(self, job: Job, call: Call) -> str:
        self.now += 1
        self.most = max(self.most, self.now)
        self.busy.set()
        await self.go.wait()
        self.done.append(job.number)
        self.now -= 1
        return call.agent


@pytest.mark.promise("group.room", "once.delivery")
async def test_a_group_shares_the_work_by_room(socket_dir: Path) -> None:
    async with apart(socket_dir) as (_, one, two, asker):
        slow, quick = Worker(), Worker()
        quick.go.set()
        await one.spawn(slow, name="jobs", group=True)
        await two.spawn(quick, name="jobs", group=True)
        async with anyio.create_task_group() as group:
            for number in range(30):
                group.start_soon(asker.request, "jobs", Job(number=number))
            with anyio.fail_after(5):
                await slow.busy.wait()
                while len(quick.done) < 29:
                    await anyio.lowlevel.checkpoint()
            slow.go.set()
        assert (len(slow.done), len(quick.done)) == (1, 29)
        assert (slow.most, quick.most) == (1, 1)
        assert sorted(quick.done) == quick.done


@pytest.mark.promise("group.waits")
async def test_a_member_that_joins_or_leaves(socket_dir: Path) -> None:
    async with apart(socket_dir) as (_, one, two, asker):
        slow, quick = Worker(), Worker()
        quick.go.set()
        await one.spawn(slow, name="jobs", group=True)
        with pytest.raises(NameTaken):
            await two.spawn(Worker(), name="jobs")
        async with anyio.create_task_group() as group:

            async def lost() -> None:
                with pytest.raises(PeerLost):
                    await asker.request("jobs", Job(number=0))

            group.start_soon(lost)
            with anyio.fail_after(5):
                await slow.busy.wait()
            for number in range(1, 4):
                group.start_soon(asker.request, "jobs", Job(number=number))
            await asker.agents()  # what was sent before has come
            await two.spawn(quick, name="jobs", group=True)
            for peer in one._sender.peers:
                peer.link.abort()
        assert quick.done == [1, 2, 3]


async def test_what_waits_for_a_group_that_ends(socket_dir: Path) -> None:
    async with apart(socket_dir) as (_, one, _, asker):
        worker = Worker()
        await one.spawn(worker, name="jobs", group=True)
        outcomes: list[type] = []

        async def ask(number: int, deadline: float) -> None:
            try:
                await asker.request("jobs", Job(number=number), deadline=deadline)
            except (PeerLost, NoResponder, DeadlineExceeded) as error:
                outcomes.append(type(error))

        async with anyio.create_task_group() as group:
            group.start_soon(ask, 0, 30)
            with anyio.fail_after(5):
                await worker.busy.wait()
            await ask(1, 0.1)
            group.start_soon(ask, 2, 30)
            await asker.agents()
            for peer in one._sender.peers:
                peer.link.abort()
        assert outcomes[0] is DeadlineExceeded
        assert set(outcomes[1:]) == {PeerLost, NoResponder}


async def test_a_group_of_instances_makes_no_sense() -> None:
    async with Bus.open() as bus:
        with pytest.raises(ConfigError):
            await bus.spawn(Worker, name="jobs", group=True, per_key=True)
        assert await bus.spawn(Worker, name="jobs", group=True) == "jobs"


async def test_waiters_that_leave_cost_nothing(socket_dir: Path) -> None:
    """Neither their places nor, when the group has room again, one call for each of them."""
    async with apart(socket_dir) as (home, one, _, asker):
        worker = Worker()
        await one.spawn(worker, name="jobs", group=True)
        async with anyio.create_task_group() as group:
            group.start_soon(asker.request, "jobs", Job(number=0))
            with anyio.fail_after(5):
                await worker.busy.wait()

            async def leave() -> None:
                with pytest.raises(DeadlineExceeded):
                    await asker.request("jobs", Job(number=1), deadline=0.3)

            async with anyio.create_task_group() as many:
                for _ in range(1500):
                    many.start_soon(leave)
            relay = home._sender.relay
            assert relay is not None
            assert not relay._router._groups["jobs"]._waiting  # type: ignore[attr-defined]
            worker.go.set()
        assert await asker.request("jobs", Job(number=2)) == "jobs"
        assert worker.done == [0, 2]


class Hostile:
    """Sends what `answer` says for each request that it gets."""

    def __init__(self, answer: Envelope) -> None:
        self._answer = answer

    def link_opened(self, link: Link) -> None:
        pass

    def received(self, link: Link, envelopes: Sequence[Envelope]) -> None:
        for envelope in envelopes:
            if envelope.kind is Kind.REQUEST:
                link.send(replace(self._answer, id=envelope.id))

    def link_broken(self, link: Link) -> None:
        pass

    def link_lost(self, link: Link, error: AgentbusError | None) -> None:
        pass


@pytest.mark.promise("peer.hostile")
@pytest.mark.parametrize(
    "answer",
    [
        Envelope(Kind.PART, schema="int", payloads=(b"\xdc\xff\xff" + b"\x00" * 0xFFFF,)),
        Envelope(Kind.PART, schema="int", payloads=(b"\xc0",)),
        Envelope(Kind.CREDIT, schema="FEED", credit=2**40),
        Envelope(Kind.HANDOFF, target="echo", schema="Ping"),
    ],
    ids=["too many parts", "no parts", "too much credit", "no payload"],
)
async def test_a_hostile_callee_ends_its_own_link_only(answer: Envelope, socket_dir: Path) -> None:
    async with apart(socket_dir) as (home, host, asker, _):
        await host.spawn(Echo(), name="echo")
        hostile = Hostile(answer)
        path = home.listens_at
        link = await connect_unix(path, hostile, Hello(peer="evil"), Limits(), timeout=5)
        relay = home._sender.relay
        assert relay is not None
        relay._router.register(Location("evil", "evil", "", ""))  # type: ignore[attr-defined]
        with anyio.fail_after(5), pytest.raises(PeerLost, match="evil"):
            async with asker.stream("evil", Count(upto=3), returns=int) as parts:
                _ = [part async for part in parts]
        assert (await asker.request("echo", Ping(number=1), returns=Pong)).number == 1
        await link.aclose()


@pytest.mark.promise("peer.hostile")
@pytest.mark.parametrize(
    "more",
    [
        Envelope(Kind.CREDIT, schema="PART", credit=2**62),
        Envelope(Kind.FEED, schema="int", payloads=(b"\x91\x01",)),
    ],
    ids=["too much credit", "unasked feed"],
)
async def test_a_hostile_caller_ends_its_own_link_only(more: Envelope, socket_dir: Path) -> None:
    async with apart(socket_dir) as (home, host, asker, _):
        echo = Echo()
        await host.spawn(echo, name="echo")
        hostile = Hostile(more)
        path = home.listens_at
        link = await connect_unix(path, hostile, Hello(peer="evil"), Limits(), timeout=5)
        hold = payload_type(Hold)
        link.send(
            Envelope(Kind.REQUEST, 1, "", "echo", hold.schema, 4, payloads=hold.encode(Hold()))
        )
        with anyio.fail_after(5):
            await echo.held.wait()
            link.send(replace(more, id=1))
            await echo.cancelled.wait()
        assert (await asker.request("echo", Ping(number=1), returns=Pong)).number == 1
        await link.aclose()
