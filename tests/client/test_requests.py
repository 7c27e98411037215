"""Requests end exactly once, in process and over a socket alike."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from pydantic import create_model

from agentbus import Agent, Bus, BusSettings, Call, Limits, handler
from agentbus.client.agent import handlers_of
from agentbus.daemon import start_broker
from agentbus.errors import (
    AgentbusError,
    AnswersInParts,
    Closed,
    ConfigError,
    DeadlineExceeded,
    HandlerFailed,
    HopsExhausted,
    InvalidMessage,
    InvalidName,
    MailboxFull,
    NameTaken,
    NoHandler,
    NoResponder,
    PeerLost,
    RequestCancelled,
    TooLarge,
)

from .agents import Boom, Count, Echo, Hold, Ping, Pong, Relay, Say, Wheel
from .conftest import Pair
from .test_feeds import Adder

pytestmark = pytest.mark.anyio


class Unsendable:
    """A class that pydantic knows no schema for."""


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


@pytest.mark.promise("ends.reply-or-error")
async def test_request_and_call(pair: Pair) -> None:
    async with pair.with_agent(Echo()) as bus:
        assert await bus.request("echo", Ping(number=1)) == Pong(number=1, by="echo")
        reply = await bus.call("echo", Ping(number=2), deadline=5)
        assert reply.value == Pong(number=2, by="echo")
        assert reply.account.target == "echo"
        assert reply.account.transport == pair.transport
        assert (reply.account.sent_bytes > 0) == (pair.kind != "inproc")
        assert (reply.account.received_bytes > 0) == (pair.kind != "inproc")
        assert 0 < reply.account.handle_s < reply.account.wall_s
        assert 0 < reply.account.queue_s < reply.account.wall_s


@pytest.mark.promise("order.lane")
async def test_order_is_kept(pair: Pair) -> None:
    echo = Echo()
    async with pair.with_agent(echo) as bus, anyio.create_task_group() as group:
        for number in range(300):
            group.start_soon(bus.request, "echo", Ping(number=number))
    assert echo.seen == list(range(300))


@pytest.mark.promise("order.stream")
async def test_stream(pair: Pair) -> None:
    async with pair.with_agent(Echo()) as bus:
        async with bus.stream("echo", Count(upto=1000)) as parts:
            assert [part async for part in parts] == list(range(1000))
        assert parts.reply.value is None
        if pair.kind != "inproc":
            assert parts.received_bytes == parts.reply.account.received_bytes > 1000
        else:
            assert parts.received_bytes == 0


@pytest.mark.promise("ends.cancel")
async def test_leaving_a_stream_early_cancels_it(pair: Pair) -> None:
    echo = Echo()
    async with pair.with_agent(echo) as bus:
        async with bus.stream("echo", Hold()):
            await echo.held.wait()
        with anyio.fail_after(5):
            await echo.cancelled.wait()
        assert (await bus.request("echo", Ping(number=1))).number == 1


@pytest.mark.promise("flow.credit")
async def test_a_writer_waits_for_its_reader(pair: Pair) -> None:
    class Eager(Agent):
        written = 0

        @handler
        async def count(self, count: Count, call: Call) -> AsyncIterator[int]:
            for number in range(count.upto):
                self.written = number + 1
                yield number

        @handler
        async def ping(self, ping: Ping, call: Call) -> int:
            return self.written

    Eager.concurrency = 2
    settings = BusSettings(stream_parts=10)
    async with pair.with_agent(Eager(), settings) as bus:
        async with bus.stream("echo", Count(upto=100)) as parts:
            for _ in range(5):
                written = await bus.request("echo", Ping(number=1))
            assert written <= 11
            assert [part async for part in parts] == list(range(100))
        assert await bus.request("echo", Ping(number=1)) == 100


async def test_a_writer_that_waits_can_be_left(pair: Pair) -> None:
    settings = BusSettings(stream_parts=1)
    async with pair.with_agent(Echo(), settings) as bus:
        async with bus.stream("echo", Count(upto=100)) as parts:
            assert await anext(parts) == 0
        with anyio.fail_after(5):
            assert (await bus.request("echo", Ping(number=1))).number == 1


@pytest.mark.promise("order.stream")
async def test_parts_before_an_error_are_read_first(pair: Pair) -> None:
    class Breaks(Agent):
        @handler
        async def count(self, count: Count, call: Call) -> AsyncIterator[int]:
            for number in range(count.upto):
                yield number
            raise ValueError("the end")

    async with pair.with_agent(Breaks()) as bus:
        seen = []
        with pytest.raises(HandlerFailed, match="the end"):
            async with bus.stream("echo", Count(upto=5)) as parts:
                async for part in parts:
                    seen.append(part)  # noqa: PERF401 - keeps what came before the error
        assert seen == list(range(5))


@pytest.mark.promise("order.stream")
async def test_parts_of_several_types_keep_their_order(pair: Pair) -> None:
    class Mixed(Agent):
        @handler
        async def count(self, count: Count, call: Call) -> AsyncIterator[int | str]:
            for number in range(count.upto):
                yield number if number % 3 else str(number)

    async with pair.with_agent(Mixed()) as bus:
        async with bus.stream("echo", Count(upto=1000)) as parts:
            seen = [part async for part in parts]
    assert seen == [number if number % 3 else str(number) for number in range(1000)]


@pytest.mark.promise("ends.error-class", "ends.nobody", "autogen-hang", "autogen-6140")
async def test_typed_errors(pair: Pair) -> None:
    async with pair.with_agent(Echo()) as bus:
        with pytest.raises(NoResponder, match="nobody"):
            await bus.request("nobody", Ping(number=1))
        with pytest.raises(NoHandler, match="for float; it handles Boom, Count, "):
            await bus.request("echo", 1.5)
        with pytest.raises(HandlerFailed, match="ValueError: over the edge"):
            await bus.request("echo", Boom(text="over the edge"))
        with pytest.raises(InvalidMessage):
            await bus.request("echo", Unsendable())
        assert (await bus.request("echo", Ping(number=1))).number == 1


async def test_a_payload_that_does_not_fit_the_handler(pair: Pair) -> None:
    imposter = type("Ping", (Boom,), {"__module__": __name__})
    async with pair.with_agent(Echo()) as bus:
        with pytest.raises(InvalidMessage, match="number"):
            await bus.request("echo", imposter(text="no number"))


@pytest.mark.promise("ends.deadline")
async def test_deadline(pair: Pair) -> None:
    echo = Echo()
    async with pair.with_agent(echo) as bus:
        with pytest.raises(DeadlineExceeded):
            await bus.request("echo", Hold(), deadline=0.05)
        with anyio.fail_after(5):
            await echo.cancelled.wait()
        with pytest.raises(DeadlineExceeded):
            await bus.request("echo", Ping(number=1), deadline=0)


@pytest.mark.promise("ends.deadline")
async def test_a_deadline_passes_on_to_the_next_hop(pair: Pair) -> None:
    class Patient(Agent):
        @handler
        async def ask(self, ping: Ping, call: Call) -> float:
            assert call.remaining < 1
            reply = await call.call("late", ping, deadline=60)
            return float(reply.value)

    class Late(Agent):
        @handler
        async def ask(self, ping: Ping, call: Call) -> float:
            return call.remaining

    async with pair.open() as (host, asker):
        await host.spawn(Patient(), name="patient")
        await host.spawn(Late(), name="late")
        assert 0 < await asker.request("patient", Ping(number=1), deadline=0.9) < 1


@pytest.mark.promise("ends.cancel")
async def test_cancelling_a_request_cancels_the_handler(pair: Pair) -> None:
    echo = Echo()
    async with pair.with_agent(echo) as bus:
        async with anyio.create_task_group() as group:
            group.start_soon(bus.request, "echo", Hold())
            await echo.held.wait()
            group.cancel_scope.cancel()
        with anyio.fail_after(5):
            await echo.cancelled.wait()
            assert (await bus.request("echo", Ping(number=1))).number == 1


@pytest.mark.promise("ends.cancel")
async def test_a_queued_request_that_is_cancelled_is_never_handled(pair: Pair) -> None:
    echo = Echo()
    async with pair.open() as (host, bus), anyio.create_task_group() as group:
        await host.spawn(echo, name="echo")
        await host.spawn(Echo(), name="other")
        group.start_soon(bus.request, "echo", Hold())
        await echo.held.wait()
        with pytest.raises(DeadlineExceeded):
            await bus.request("echo", Ping(number=7), deadline=0.05)
        await bus.request("other", Ping(number=0))  # behind the cancellation, on the same way
        echo.release.set()
        await bus.request("echo", Ping(number=8))
    assert echo.seen == [8]


@pytest.mark.promise("flow.mailbox", "dynamo-14167")
async def test_a_full_mailbox_refuses(pair: Pair) -> None:
    echo = Echo()
    async with pair.with_agent(echo, BusSettings(mailbox=2)) as bus:
        async with anyio.create_task_group() as group:
            group.start_soon(bus.request, "echo", Hold())
            await echo.held.wait()
            group.start_soon(bus.request, "echo", Ping(number=1))
            group.start_soon(bus.request, "echo", Ping(number=2))
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(MailboxFull):
                await bus.request("echo", Ping(number=3))
            echo.release.set()
    assert echo.seen == [1, 2]


@pytest.mark.promise("flow.hops")
async def test_requests_in_a_circle_end(pair: Pair) -> None:
    async with pair.open(BusSettings(max_hops=20)) as (host, asker):
        await host.spawn(Wheel, name="wheel")
        with pytest.raises(HopsExhausted):
            await asker.request("wheel", "round and round")


async def test_agents_ask_agents(pair: Pair) -> None:
    async with pair.open() as (host, asker):
        await host.spawn(Echo(), name="first")
        await host.spawn(Echo(), name="second")
        pong = await asker.request("first", Relay(to="second", number=4))
        assert pong == Pong(number=4, by="second")
        with pytest.raises(NoResponder, match="third"):
            await asker.request("first", Relay(to="third", number=4))


async def test_contexts_travel(pair: Pair) -> None:
    async with pair.with_agent(Echo()) as bus:
        start = bus.context().user("We write about tides.")
        reply = await bus.call("echo", Say(text="Twice a day."), context=start)
        assert reply.context == start.message("echo", "Twice a day.")
        assert start.length == 1
        again = await bus.call("echo", Say(text="Mostly."), context=reply.context)
        assert again.context is not None
        assert [s.text for s in again.context.segments()][1:] == ["Twice a day.", "Mostly."]


@pytest.mark.promise("ends.reply-or-error")
async def test_closing_the_bus_ends_what_is_under_way(pair: Pair) -> None:
    echo = Echo()
    outcome: list[BaseException] = []

    async def ask(bus: Bus) -> None:
        try:
            await bus.request("echo", Hold())
        except AgentbusError as error:
            outcome.append(error)

    async with anyio.create_task_group() as group, pair.with_agent(echo) as bus:
        group.start_soon(ask, bus)
        await echo.held.wait()
    assert len(outcome) == 1
    assert isinstance(outcome[0], RequestCancelled | PeerLost)
    with pytest.raises(Closed):
        await bus.request("echo", Ping(number=1))


async def test_the_bodys_own_exception_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with Bus.open():
            raise KeyError("mine")


@pytest.mark.promise("ends.left-nothing")
async def test_nothing_is_left_behind(pair: Pair, socket_dir: Path) -> None:
    before = asyncio.all_tasks()
    async with pair.with_agent(Echo()) as bus:
        await bus.request("echo", Ping(number=1))
    await anyio.wait_all_tasks_blocked()
    assert asyncio.all_tasks() == before
    assert not files_in(socket_dir)


async def test_spawn_checks() -> None:
    class Bad(Agent):
        @handler
        async def ask(self, anything, call: Call) -> None:  # type: ignore[no-untyped-def]
            return None

    class Empty(Agent):
        pass

    async with Bus.open() as bus:
        await bus.spawn(Echo)
        with pytest.raises(NameTaken):
            await bus.spawn(Echo)
        with pytest.raises(ConfigError, match="annotate"):
            await bus.spawn(Bad)
        with pytest.raises(ConfigError, match="@handler"):
            await bus.spawn(Empty)
        with pytest.raises(AgentbusError):
            await bus.spawn(Echo, name="not a name")


@pytest.mark.promise("flow.bounded", "autogen-3667", "dynamo-9734")
async def test_a_frame_over_the_limit_is_refused_by_the_sender(socket_dir: Path) -> None:
    pair = Pair("unix", socket_dir)
    settings = BusSettings(limits=Limits(frame=10_000))
    async with pair.with_agent(Echo(), settings) as bus:
        with pytest.raises(TooLarge):
            await bus.request("echo", Ping(number=1, text="x" * 20_000))
        assert (await bus.request("echo", Ping(number=1))).number == 1


@pytest.mark.promise("ends.reply-or-error")
@pytest.mark.parametrize("limits", [Limits(frame=8192), Limits(payloads=6)])
async def test_what_leaves_together_stays_within_narrow_limits(
    limits: Limits, socket_dir: Path
) -> None:
    pair = Pair("unix", socket_dir)
    async with pair.with_agent(Echo(), BusSettings(limits=limits)) as bus:
        text = "x" * 2000
        asked = [bus.request("echo", Ping(number=n, text=text), returns=Pong) for n in range(40)]
        assert [pong.number for pong in await asyncio.gather(*asked)] == list(range(40))


@pytest.mark.promise("ends.reply-or-error")
async def test_a_reply_that_cannot_be_sent_ends_its_own_request(socket_dir: Path) -> None:
    """Among replies that leave together, too: nobody waits for what was lost."""
    large = create_model("Größe", number=(int, ...))

    class Sizes(Agent):
        @handler
        async def ping(self, ping: Ping, call: Call) -> Any:
            return ping if ping.number % 3 else large(number=ping.number)

    async with Pair("unix", socket_dir).with_agent(Sizes()) as bus:
        asked = [bus.request("echo", Ping(number=n), returns=Ping) for n in range(20)]
        for number, answer in enumerate(await asyncio.gather(*asked, return_exceptions=True)):
            if number % 3:
                assert answer == Ping(number=number)
            else:
                assert isinstance(answer, InvalidName)


async def test_what_cannot_be_opened_says_why(socket_dir: Path) -> None:
    with pytest.raises(ConfigError, match="unix://"):
        Bus.open("http://localhost")
    with pytest.raises(AgentbusError, match=r"bus\.sock"):
        async with Bus.open(f"unix://{socket_dir}/run/bus.sock"):
            pass
    with pytest.raises(Closed):
        await Bus.open().request("echo", Ping(number=1))


@pytest.mark.promise("own.copy")
async def test_a_reply_is_the_callers_own(pair: Pair) -> None:
    class Keeper(Agent):
        def __init__(self) -> None:
            self.kept: list[Any] = [1]

        @handler
        async def give(self, ping: Ping, call: Call) -> list[Any]:
            return self.kept

    keeper = Keeper()
    async with pair.with_agent(keeper) as bus:
        received = await bus.request("echo", Ping(number=1))
        received.append(2)
        assert keeper.kept == [1]


async def test_a_handler_that_fails_on_a_lost_link_harms_nobody(socket_dir: Path) -> None:
    class Unlucky(Echo):
        @handler
        async def circle(self, boom: Boom, call: Call) -> str:
            peer.link.abort()  # the handler fails before the loop says that the link is gone
            raise ValueError("too late")

    async with Pair("unix", socket_dir).open() as (host, asker):
        await host.spawn(Unlucky(), name="echo")
        (peer,) = host._sender.peers
        with pytest.raises(PeerLost):
            await asker.request("echo", Boom(text=""))
        assert (await host.request("echo", Ping(number=1))).number == 1


async def test_finished_requests_leave_nothing_for_the_garbage_collector(pair: Pair) -> None:
    async with pair.with_agent(Echo()) as bus:
        await bus.request("echo", Ping(number=1))
        gc.collect()
        gc.disable()
        try:
            for number in range(50):
                await bus.request("echo", Ping(number=number))
            assert gc.collect() < 50
        finally:
            gc.enable()


async def test_a_cancelled_thing_that_a_handler_awaits_is_its_own_failure(pair: Pair) -> None:
    class Careless(Agent):
        @handler
        async def ask(self, ping: Ping, call: Call) -> int:
            if ping.number == 0:
                doomed = asyncio.get_running_loop().create_future()
                doomed.cancel()
                await doomed
            return ping.number

    async with pair.with_agent(Careless()) as bus:
        with pytest.raises(RequestCancelled):
            await bus.request("echo", Ping(number=0))
        assert await bus.request("echo", Ping(number=1), deadline=5) == 1


async def test_a_handler_that_swallows_its_cancellation_serves_on(pair: Pair) -> None:
    class Stubborn(Echo):
        @handler
        async def hold(self, hold: Hold, call: Call) -> str:
            self.held.set()
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
            return "anyway"

    agent = Stubborn()
    async with pair.with_agent(agent) as bus:
        with pytest.raises(DeadlineExceeded):
            await bus.request("echo", Hold(), deadline=0.05)
        with anyio.fail_after(5):
            await agent.cancelled.wait()
        for number in range(3):
            assert (await bus.request("echo", Ping(number=number), deadline=5)).number == number


async def test_an_ill_filled_error_harms_its_own_request_only(pair: Pair) -> None:
    class Sloppy(Agent):
        @handler
        async def ask(self, ping: Ping, call: Call) -> int:
            if ping.number == 0:
                raise ConfigError("x", ValueError("y"))  # type: ignore[arg-type]
            if ping.number == 1:
                raise PeerLost(None)  # type: ignore[arg-type]
            return ping.number

    async with pair.with_agent(Sloppy()) as bus:
        for number in range(2):
            with pytest.raises(AgentbusError):
                await bus.request("echo", Ping(number=number), deadline=5)
        assert await bus.request("echo", Ping(number=2), deadline=5) == 2


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e300])
async def test_a_deadline_is_a_finite_number(pair: Pair, seconds: float) -> None:
    async with pair.with_agent(Echo()) as bus:
        with pytest.raises(ConfigError, match="finite"):
            await bus.request("echo", Ping(number=1), deadline=seconds)
        with pytest.raises(DeadlineExceeded):
            await bus.request("echo", Hold(), deadline=0.05)


async def test_a_closed_bus_spawns_and_serves_nothing() -> None:
    async with Bus.open() as bus:
        pass
    with pytest.raises(Closed):
        await bus.spawn(Echo)
    with pytest.raises(Closed):
        await bus.serve("fake:echo")
    with pytest.raises(Closed):
        async with bus.subscribe("n"):
            pass


async def test_an_agent_that_fails_to_stop_is_logged_and_holds_up_nothing(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(Echo):
        async def stopped(self) -> None:
            raise ValueError("will not stop")

    async with pair.with_agent(Stubborn()) as bus:
        assert (await bus.request("echo", Ping(number=1))).number == 1
    assert "failed to stop" in caplog.text
    assert "will not stop" in caplog.text


async def test_a_handler_takes_each_type_of_a_union(pair: Pair) -> None:
    class Either(Agent):
        @handler
        async def take(self, what: Ping | Say, call: Call) -> str:
            return type(what).__name__

    async with pair.with_agent(Either()) as bus:
        assert await bus.request("echo", Ping(number=1)) == "Ping"
        assert await bus.request("echo", Say(text="x")) == "Say"


def test_a_union_may_not_meet_another_handler_of_its_types() -> None:
    class Twice(Agent):
        @handler
        async def take(self, what: Ping | Say, call: Call) -> None: ...

        @handler
        async def say(self, what: Say, call: Call) -> None: ...

    with pytest.raises(ConfigError, match="two handlers accept Say"):
        handlers_of(Twice)


async def test_each_request_of_a_program_begins_a_trace(pair: Pair) -> None:
    async with pair.open() as (host, asker):
        traces = [bus._sender.traces.new() for bus in (host, asker) for _ in range(100)]
    assert {len(trace) for trace in traces} == {24}
    assert len({trace[:16] for trace in traces}) == 200


@pytest.mark.promise("nats-572")
async def test_thousands_of_requests_all_end_in_time(pair: Pair) -> None:
    seen: list[int] = []

    async def ask(first: int) -> None:
        for number in range(first, first + 50):
            reply = await bus.request("echo", Ping(number=number), returns=Pong, deadline=20)
            seen.append(reply.number)

    async with pair.with_agent(Echo()) as bus, anyio.create_task_group() as group:
        for first in range(0, 3200, 50):
            group.start_soon(ask, first)
    assert sorted(seen) == list(range(3200))


async def test_a_stream_is_entered_before_it_is_read(pair: Pair) -> None:
    async with pair.with_agent(Echo()) as bus:
        stream = bus.stream("echo", Count(upto=3))
        with pytest.raises(Closed, match="async with"):
            await anext(stream)
        async with stream:
            with pytest.raises(Closed, match="not come yet"):
                _ = stream.reply
            assert [part async for part in stream] == [0, 1, 2]


async def test_who_answers_in_parts_is_not_asked_for_a_value(pair: Pair) -> None:
    async with pair.with_agent(Echo()) as bus:
        with pytest.raises(AnswersInParts, match=r"Count in parts.*bus.stream"):
            await bus.request("echo", Count(upto=3))


async def test_a_deadline_names_who_did_not_answer(pair: Pair) -> None:
    class Asks(Agent):
        @handler
        async def ask(self, ping: Ping, call: Call) -> None:
            await call.request("echo", Hold(), deadline=0.1)

    async with pair.open() as (host, asker):
        await host.spawn(Echo(), name="echo")
        await host.spawn(Asks(), name="asks")
        with pytest.raises(DeadlineExceeded, match="'echo' did not answer"):
            await asker.request("asks", Ping(number=1))


async def test_what_is_no_agent_is_said_so() -> None:
    async def function(text: str) -> str:
        return text

    class Needy(Echo):
        def __init__(self, what: str) -> None:
            super().__init__()

    async with Bus.open() as bus:
        with pytest.raises(ConfigError, match="agent_of"):
            await bus.spawn(function)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="without arguments"):
            await bus.spawn(Needy)


async def test_an_exception_that_cannot_be_read_harms_its_own_request_only(pair: Pair) -> None:
    class Unreadable(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    class Bad(Agent):
        @handler
        async def fail(self, ping: Ping, call: Call) -> None:
            match ping.number:
                case 1:
                    raise Unreadable
                case 2:
                    raise TooLarge("x", 2**70, 1)
                case 3:
                    raise type("Own", (AgentbusError,), {})(Unreadable())

        @handler
        async def say(self, say: Say, call: Call) -> str:
            return say.text

    async with pair.with_agent(Bad()) as bus:
        for number in (1, 2, 3):
            with pytest.raises(AgentbusError):
                await bus.request("echo", Ping(number=number), deadline=5)
        assert await bus.request("echo", Say(text="still there")) == "still there"


async def test_a_first_request_may_be_cancelled_at_any_moment(socket_dir: Path) -> None:
    """Also while its link is made: the next request makes another one."""
    path = f"{socket_dir}/run/bus.sock"
    async with Bus.open(listen=path) as home:
        await start_broker(home)
        async with Bus.open(f"unix://{path}") as host:
            await host.spawn(Echo(), name="echo")
            for turns in range(12):
                async with Bus.open(f"unix://{path}") as asker:
                    first = asyncio.create_task(asker.request("echo", Ping(number=1)))
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    first.cancel()
                    with anyio.fail_after(5):
                        pong = await asker.request("echo", Ping(number=2), returns=Pong)
                    assert pong.number == 2
                    await asyncio.gather(first, return_exceptions=True)


async def test_one_stream_may_have_several_writers_and_one_reader(pair: Pair) -> None:
    async with pair.with_agent(Adder(), BusSettings(stream_parts=2)) as bus:
        async with bus.stream("echo", Ping(number=0)) as stream, anyio.create_task_group() as group:

            async def send() -> None:
                for _ in range(20):
                    await stream.send(1)

            for _ in range(3):
                group.start_soon(send)
            with anyio.fail_after(10):
                assert [await anext(stream) for _ in range(60)] == list(range(1, 61))
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            with pytest.raises(Closed, match="second reader"):
                await anext(stream)
            stream.finish()
            with pytest.raises(StopAsyncIteration):
                await waiting


class Sorts(Agent):
    """Answers some at once, some later, and fails others."""

    concurrency = 8

    @handler
    async def ping(self, ping: Ping, call: Call) -> Pong:
        if ping.number % 7 == 0:
            await anyio.lowlevel.checkpoint()
        if ping.number % 11 == 0:
            raise ValueError(f"no {ping.number}")
        return Pong(number=ping.number, by=ping.text[:3])

    @handler
    async def say(self, say: Say, call: Call) -> str:
        assert call.context is not None
        return say.text


async def ask_sorts(bus: Bus, number: int, outcomes: dict[int, object]) -> None:
    if number % 5 == 0:
        context = bus.context().user(f"{number}")
        reply = await bus.call("echo", Say(text=f"{number}"), context=context)
    else:
        text = "abc" * (3000 if number % 13 == 0 else 1)
        try:
            reply = await bus.call("echo", Ping(number=number, text=text))
        except HandlerFailed as error:
            outcomes[number] = error.text
            return
    assert reply.account.wall_s > reply.account.handle_s > 0
    outcomes[number] = reply.value


def sorted_out(number: int) -> object:
    if number % 5 == 0:
        return f"{number}"
    return f"no {number}" if number % 11 == 0 else Pong(number=number, by="abc")


async def test_many_requests_of_all_sorts_at_once_end_each_with_its_own(pair: Pair) -> None:
    """What leaves together in one turn, and what cannot, goes back to who asked."""
    outcomes: dict[int, object] = {}
    async with pair.with_agent(Sorts()) as bus, anyio.create_task_group() as group:
        for number in range(200):
            group.start_soon(ask_sorts, bus, number, outcomes)
    assert outcomes == {number: sorted_out(number) for number in range(200)}


async def test_requests_that_left_together_can_be_cancelled_one_by_one(pair: Pair) -> None:
    echo = Echo()
    async with pair.with_agent(echo) as bus:
        asked = [asyncio.ensure_future(bus.request("echo", Ping(number=n))) for n in range(20)]
        await asyncio.sleep(0)
        for request in asked[::2]:
            request.cancel()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [outcome.number for outcome in outcomes[1::2]] == list(range(1, 20, 2))  # type: ignore[union-attr]
        assert (await bus.request("echo", Ping(number=99))).number == 99
