"""Another agent answers in the place of the one that was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from agentbus import Agent, Bus, BusSettings, Call, handler
from agentbus.client.exchange import Pending
from agentbus.client.offer import Offer
from agentbus.client.origin import Origin
from agentbus.client.peer import Peer
from agentbus.daemon import start_broker
from agentbus.errors import (
    AgentbusError,
    Closed,
    ConfigError,
    DeadlineExceeded,
    HopsExhausted,
    InvalidMessage,
    InvalidName,
    MailboxFull,
    NoHandler,
    NoResponder,
    PeerLost,
)
from agentbus.messages import Envelope, Kind
from agentbus.wire import pack_reply_head

from .agents import Boom, Count, Echo, Hold, Ping, Pong, Say
from .tcp_keys import CLIENT, LISTENING, LOOPBACK
from .test_feeds import Adder

pytestmark = pytest.mark.anyio

FAR = ", far"
_PLACES = {
    "here": (0, 0),
    "beside": (1, 1),
    "away": (1, 2),
    "with the caller": (1, 0),
    "third": (0, 1),
}
PLACES = _PLACES | {place + FAR: where for place, where in _PLACES.items()}
"""In which of three processes the first agent and the second are; the caller is in process 0."""


@asynccontextmanager
async def processes(
    folder: Path, settings: BusSettings | None = None, *, far: bool = False
) -> AsyncIterator[list[Bus]]:
    """Three processes that reach each other directly or, `far` apart, by way of their broker."""
    where = LOOPBACK if far else f"{folder}/run/bus.sock"
    async with AsyncExitStack() as stack:
        home = await stack.enter_async_context(
            Bus.open(listen=where, name="broker", keys=LISTENING if far else None)
        )
        await start_broker(home)
        url = home.listens_at if far else f"unix://{where}"
        keys = CLIENT if far else None
        yield [
            await stack.enter_async_context(Bus.open(url, settings=settings, keys=keys))
            for _ in range(3)
        ]


class First(Agent):
    """Hands over what it is asked, and says how that went."""

    def __init__(self) -> None:
        self.outcome: AgentbusError | None = None
        self.returned = anyio.Event()

    @handler
    async def ping(self, ping: Ping, call: Call) -> Pong:
        await call.handoff("second", ping)
        self.returned.set()
        return Pong(number=-1, by="first, which has no say any more")

    @handler
    async def say(self, say: Say, call: Call) -> str:
        call.context = (call.context or call.empty_context()).message("first", "over to second")
        await call.handoff("second", say)
        return "dropped"

    @handler
    async def boom(self, boom: Boom, call: Call) -> None:
        call.context = (call.context or call.empty_context()).message("first", boom.text)
        await call.handoff("second", Ping(number=1))

    @handler
    async def count(self, count: Count, call: Call) -> AsyncIterator[int]:
        yield -2
        yield -1
        await call.handoff("second", count)
        yield 99

    @handler
    async def hold(self, hold: Hold, call: Call) -> str:
        await call.handoff("second", hold)
        await anyio.sleep_forever()
        return "never"

    @handler
    async def attempt(self, target: str, call: Call) -> str:
        try:
            await call.handoff(target, Ping(number=1))
        except AgentbusError as error:
            return f"kept it: {type(error).__name__}"
        return "handed over"


@asynccontextmanager
async def two(place: str, folder: Path) -> AsyncIterator[tuple[Bus, First, Echo, list[Bus]]]:
    async with processes(folder, far=place.endswith(FAR)) as buses:
        first, second = First(), Echo()
        one, other = PLACES[place]
        await buses[one].spawn(first, name="first")
        await buses[other].spawn(second, name="second")
        yield buses[0], first, second, buses


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.mark.promise("once.delivery")
async def test_the_second_answers(place: str, socket_dir: Path) -> None:
    async with two(place, socket_dir) as (bus, first, second, buses):
        reply = await bus.call("first", Ping(number=7), returns=Pong)
        assert reply.value == Pong(number=7, by="second")
        assert reply.account.target == "second"
        with anyio.fail_after(5):
            await first.returned.wait()
        assert second.seen == [7]
        for each in buses:
            for peer in each._sender.peers:
                assert not peer.outgoing
                assert not peer.incoming


async def test_context_goes_along(place: str, socket_dir: Path) -> None:
    async with two(place, socket_dir) as (bus, _, _, _):
        context = bus.context().user("tides")
        reply = await bus.call("first", Say(text="hello"), context=context)
        assert reply.value == "hello"
        assert reply.context == context.message("first", "over to second").message(
            "second", "hello"
        )


async def test_what_the_first_said_is_kept(place: str, socket_dir: Path) -> None:
    async with two(place, socket_dir) as (bus, _, _, _):
        context = bus.context().user("tides")
        reply = await bus.call("first", Boom(text="over"), context=context)
        assert reply.context == context.message("first", "over")


async def test_in_mid_stream(place: str, socket_dir: Path) -> None:
    async with two(place, socket_dir) as (bus, _, _, _):
        async with bus.stream("first", Count(upto=1000)) as parts:
            assert [part async for part in parts] == [-2, -1, *range(1000)]


@pytest.mark.promise("handoff.watch")
async def test_the_caller_watches_the_second(place: str, socket_dir: Path) -> None:
    async with two(place, socket_dir) as (bus, _, second, _):
        with pytest.raises(DeadlineExceeded):
            await bus.request("first", Hold(), deadline=0.3)
        with anyio.fail_after(5):
            await second.cancelled.wait()


@pytest.mark.promise("handoff.watch")
async def test_the_firsts_end_is_no_loss(socket_dir: Path) -> None:
    async with two("away", socket_dir) as (bus, _, second, buses):
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                assert await bus.request("first", Hold()) == "released"

            group.start_soon(ask)
            with anyio.fail_after(5):
                await second.held.wait()
                for peer in buses[1]._sender.peers:
                    peer.link.abort()
                await anyio.wait_all_tasks_blocked()
                second.release.set()


async def test_the_seconds_end_is_told(socket_dir: Path) -> None:
    async with two("away", socket_dir) as (bus, _, second, buses):
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                with pytest.raises(PeerLost, match=buses[2].name):
                    await bus.request("first", Hold())

            group.start_soon(ask)
            with anyio.fail_after(5):
                await second.held.wait()
            for peer in buses[2]._sender.peers:
                peer.link.abort()


@pytest.mark.promise("handoff.accept")
async def test_what_is_refused_stays(place: str, socket_dir: Path) -> None:
    async with two(place, socket_dir) as (bus, _, _, buses):
        assert await bus.request("first", "nobody") == f"kept it: {NoResponder.__name__}"

        class Picky(Agent):
            @handler
            async def only(self, number: int, call: Call) -> None: ...

        await buses[PLACES[place][1]].spawn(Picky(), name="picky")
        assert await bus.request("first", "picky") == f"kept it: {NoHandler.__name__}"
        assert (await bus.request("second", Ping(number=1), returns=Pong)).number == 1


@pytest.mark.promise("handoff.accept")
async def test_a_full_mailbox_has_not_accepted(socket_dir: Path) -> None:
    async with processes(socket_dir, BusSettings(mailbox=1)) as (caller, one, other):
        await one.spawn(First(), name="first")
        echo = Echo()
        await other.spawn(echo, name="full")
        async with anyio.create_task_group() as group:
            group.start_soon(caller.request, "full", Hold())
            with anyio.fail_after(5):
                await echo.held.wait()
            group.start_soon(caller.request, "full", Ping(number=1))
            await caller.agents()
            assert await caller.request("first", "full") == f"kept it: {MailboxFull.__name__}"
            echo.release.set()


async def test_hops_and_payloads_are_checked(socket_dir: Path) -> None:
    class Odd(Agent):
        @handler
        async def go(self, ping: Ping, call: Call) -> None:
            await call.handoff("odd", ping if ping.number else object())

    async with processes(socket_dir, BusSettings(max_hops=5)) as (caller, one, _):
        await one.spawn(Odd(), name="odd")
        with pytest.raises(HopsExhausted):
            await caller.request("odd", Ping(number=1))
        with pytest.raises(InvalidMessage):
            await caller.request("odd", Ping(number=0))


async def test_a_feed_goes_to_the_second(place: str, socket_dir: Path) -> None:
    class Opener(Agent):
        @handler
        async def add(self, ping: Ping, call: Call) -> AsyncIterator[int]:
            yield 0
            await call.handoff("adder", ping)

    async with processes(socket_dir, far=place.endswith(FAR)) as buses:
        one, other = PLACES[place]
        await buses[one].spawn(Opener(), name="opener")
        await buses[other].spawn(Adder(), name="adder")
        for early in (False, True):
            async with buses[0].stream("opener", Ping(number=100)) as stream:
                if early:  # fed nothing, and said so before it was handed over
                    stream.finish()
                assert await anext(stream) == 0
                for total in () if early else (102, 104, 106):
                    await stream.send(2)
                    assert await anext(stream) == total
                stream.finish()
                assert [part async for part in stream] == []


async def test_who_handed_over_finds_no_feed(place: str, socket_dir: Path) -> None:
    """It would wait for ever: what the caller feeds goes to the second, and no deadline is left."""
    found: list[int] = []
    done = anyio.Event()

    class Late(Agent):
        @handler
        async def add(self, ping: Ping, call: Call) -> AsyncIterator[int]:
            await call.handoff("adder", ping)
            found.extend([part async for part in call.feed(int)])
            done.set()
            yield 1

    async with processes(socket_dir, far=place.endswith(FAR)) as buses:
        one, other = PLACES[place]
        await buses[one].spawn(Late(), name="late")
        await buses[other].spawn(Adder(), name="adder")
        async with buses[0].stream("late", Ping(number=100)) as stream:
            await stream.send(2)
            assert await anext(stream) == 102
            with anyio.fail_after(5):
                await done.wait()
    assert found == []


async def test_who_reads_the_feed_keeps_the_request(place: str, socket_dir: Path) -> None:
    class Reader(Agent):
        @handler
        async def add(self, ping: Ping, call: Call) -> AsyncIterator[int]:
            yield await anext(call.feed(int))
            await call.handoff("adder", ping)

    async with processes(socket_dir, far=place.endswith(FAR)) as buses:
        one, other = PLACES[place]
        await buses[one].spawn(Reader(), name="reader")
        await buses[other].spawn(Adder(), name="adder")
        async with buses[0].stream("reader", Ping(number=100)) as stream:
            await stream.send(1)
            assert await anext(stream) == 1
            with pytest.raises(ConfigError, match="reads the feed"):
                await anext(stream)


@pytest.mark.pure
async def test_one_hand_over_at_a_time(socket_dir: Path) -> None:
    """A peer that offers one request again and again makes nobody work for it."""
    async with two("away", socket_dir) as (bus, _, second, _):
        handed = bus._sender.handed_over
        started: list[object] = []

        def often(peer: Peer, pending: Pending, offer: Offer) -> None:
            handed(peer, pending, offer)
            started.append(offer)
            for _ in range(3):
                with pytest.raises(Closed):
                    handed(peer, pending, offer)

        bus._sender.handed_over = often  # type: ignore[method-assign]
        assert await bus.request("first", Ping(number=1), returns=Pong) == Pong(
            number=1, by="second"
        )
        assert len(started) == 1
        assert second.seen == [1]


@pytest.mark.parametrize("window", [1, 2, 3, 5, 7])
@pytest.mark.pure
async def test_no_credit_is_lost(window: int, socket_dir: Path) -> None:
    """Parts are read while the second agent is being asked."""
    async with processes(socket_dir, BusSettings(stream_parts=window)) as (caller, one, other):
        await one.spawn(First(), name="first")
        await other.spawn(Echo(), name="second")
        reach = caller._sender.routes.reach

        async def slowly(name: str, origin: Origin) -> Peer:
            for _ in range(20):
                await asyncio.sleep(0)
            return await reach(name, origin)

        caller._sender.routes.reach = slowly  # type: ignore[method-assign]
        with anyio.fail_after(10):
            async with caller.stream("first", Count(upto=50)) as parts:
                assert [part async for part in parts] == [-2, -1, *range(50)]


@pytest.mark.pure
async def test_a_hand_over_that_is_given_up_harms_nobody(socket_dir: Path) -> None:
    class Impatient(Agent):
        @handler
        async def ping(self, ping: Ping, call: Call) -> str:
            with anyio.move_on_after(0.05):
                await call.handoff("second", ping)
            return "too late, or kept"

    async with processes(socket_dir) as (caller, one, other):
        await one.spawn(Impatient(), name="first")
        await other.spawn(Echo(), name="second")
        await one.spawn(Echo(), name="echo")
        reach, go = caller._sender.routes.reach, anyio.Event()

        async def late(name: str, origin: Origin) -> Peer:
            if name == "second":
                await go.wait()
            return await reach(name, origin)

        caller._sender.routes.reach = late  # type: ignore[method-assign]
        assert await caller.request("first", Ping(number=1)) == "too late, or kept"
        go.set()
        await anyio.wait_all_tasks_blocked()
        assert (await caller.request("echo", Ping(number=2), returns=Pong)).number == 2


async def test_a_bus_closes_in_the_middle_of_hand_overs(socket_dir: Path) -> None:
    for turns in range(6, 13):
        async with processes(socket_dir) as (_, one, other):
            await one.spawn(First(), name="first")
            await other.spawn(Echo(), name="second")
            url = f"unix://{socket_dir}/run/bus.sock"
            with anyio.fail_after(5):
                async with Bus.open(url) as caller:
                    asked = [
                        asyncio.create_task(caller.request("first", Ping(number=number)))
                        for number in range(10)
                    ]
                    for _ in range(turns):
                        await asyncio.sleep(0)
                await asyncio.gather(*asked, return_exceptions=True)


async def test_an_answer_before_the_acceptance_leaves_nothing(socket_dir: Path) -> None:
    """The new agent's answer says that it has the request, also when it comes with others."""
    async with two("away", socket_dir) as (bus, _, second, _):
        peers = bus._sender.peers

        def joined(peer: Peer, envelope: Envelope) -> None:
            heads = pack_reply_head(envelope.id, 0.0, 0.0)
            peers.intake._take_replies(
                peer, replace(envelope, payloads=(heads, envelope.payloads[1]))
            )

        def deaf(peer: Peer, envelope: Envelope) -> None:
            """The acceptance is late."""

        peers.intake._takers |= {Kind.REPLY.value: joined, Kind.ACCEPT.value: deaf}
        with anyio.fail_after(5):
            answer = await bus.request("first", Ping(number=1), returns=Pong)
        assert answer == Pong(number=1, by="second")
        assert second.seen == [1]
        assert [dict(peer.outgoing) for peer in peers if peer.outgoing] == []


@pytest.mark.promise("peer.may")
async def test_a_hand_over_is_in_the_name_of_who_was_asked(socket_dir: Path) -> None:
    """Else an agent could have its callers' processes act for those agents of theirs that may more."""

    class Forger(Agent):
        @handler
        async def ping(self, ping: Ping, call: Call) -> str:
            node = call._node
            own = call._delivery.origin
            origin = Origin(ping.text, own.deadline_at, own.hops_left, own.trace)
            try:
                await node.hand_over(call._delivery, "second", Ping(number=1), origin)
            except InvalidName as error:
                return str(error)
            return "it went"

    async with processes(socket_dir) as (caller, one, other):
        await one.spawn(Forger(), name="first")
        second = Echo()
        await other.spawn(second, name="second")
        await caller.spawn(Echo(), name="trusted")
        for name in ("trusted", ""):
            answer = await caller.request("first", Ping(number=1, text=name), returns=str)
            assert "in its own name" in answer
        assert second.seen == []
        pong = await caller.request("first", Ping(number=1, text="first"))
        assert pong == Pong(number=1, by="second")
