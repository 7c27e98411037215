"""Contexts of messages in flight are leased; others are found by reference, retained, collected."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from agentbus import Agent, Bus, BusSettings, Call, Context, handler
from agentbus.errors import (
    ConfigError,
    DeadlineExceeded,
    ForgottenContext,
    HandlerFailed,
    NoResponder,
    PeerLost,
    UnknownContext,
)

from .agents import Boom, Count, Echo, Hold, Ping, Say
from .conftest import Pair
from .test_handoff import First, processes

pytestmark = pytest.mark.anyio


def talk(bus: Bus) -> Context:
    return bus.context().document("d" * 2000).user("Explain tides.")


def forget_all(bus: Bus) -> None:
    """Have a process forget what nothing holds."""
    bus.contexts.collect()


async def nothing_held(bus: Bus) -> None:
    """Wait until nothing of a bus's contexts is leased: then all can be collected."""
    with anyio.fail_after(5):
        while bus.contexts.collect() or len(bus.contexts):
            await anyio.lowlevel.checkpoint()


class Waiting(Agent):
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked = anyio.Event()
        self.go = anyio.Event()

    @handler
    async def say(self, say: Say, call: Call) -> str:
        self.asked.set()
        await self.go.wait()
        context = call.context or call.empty_context()
        call.context = context.message(self.name, say.text)
        return say.text


@asynccontextmanager
async def waiting(pair: Pair) -> AsyncIterator[tuple[Bus, Bus, Waiting]]:
    async with pair.open() as (host, asker):
        agent = Waiting()
        await host.spawn(agent, name="echo")
        yield host, asker, agent


@pytest.mark.promise("context.lease")
async def test_a_request_under_way_holds_its_context(pair: Pair) -> None:
    async with waiting(pair) as (host, asker, agent):
        context = talk(asker)

        async def ask() -> None:
            reply = await asker.call("echo", Say(text="yes"), context=context)
            assert reply.context == context.message("echo", "yes")

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await agent.asked.wait()
            forget_all(asker)
            if asker is not host:
                assert asker.contexts.find(context.root) == context
            # What the reply builds on is still there, so that nothing is asked for once more.
            agent.go.set()
        await nothing_held(asker)
        await nothing_held(host)


def ends() -> dict[str, Callable[[Bus, Context], object]]:
    async def reply(bus: Bus, context: Context) -> None:
        await bus.call("echo", Say(text="yes"), context=context)

    async def reply_in_short(bus: Bus, context: Context) -> None:
        await bus.request("echo", Ping(number=1), context=context)

    async def error(bus: Bus, context: Context) -> None:
        with pytest.raises(HandlerFailed):
            await bus.call("echo", Boom(text="x"), context=context)

    async def deadline(bus: Bus, context: Context) -> None:
        with pytest.raises(DeadlineExceeded):
            await bus.call("echo", Hold(), context=context, deadline=0.05)

    async def cancelled(bus: Bus, context: Context) -> None:
        with anyio.move_on_after(0.05):
            await bus.call("echo", Hold(), context=context)

    async def stream(bus: Bus, context: Context) -> None:
        async with bus.stream("echo", Count(upto=3), context=context) as parts:
            assert [part async for part in parts] == [0, 1, 2]

    async def stream_left(bus: Bus, context: Context) -> None:
        async with bus.stream("echo", Count(upto=10**6), context=context) as parts:
            await anext(parts)

    return {
        end.__name__: end
        for end in (reply, reply_in_short, error, deadline, cancelled, stream, stream_left)
    }


@pytest.mark.parametrize("end", ends())
async def test_however_a_request_ends_its_lease_ends(pair: Pair, end: str) -> None:
    async with pair.open() as (host, asker):
        await host.spawn(Echo(), name="echo")
        await ends()[end](asker, talk(asker))  # type: ignore[misc]
        await nothing_held(asker)
        await nothing_held(host)


@pytest.mark.parametrize("far", [False, True])
async def test_a_request_that_is_handed_over_takes_its_lease_along(
    socket_dir: Path, far: bool
) -> None:
    async with processes(socket_dir, far=far) as (caller, one, two):
        await one.spawn(First(), name="first")
        agent = Waiting()
        await two.spawn(agent, name="second")
        context = talk(caller)

        async def ask() -> None:
            reply = await caller.call("first", Say(text="yes"), context=context)
            assert reply.context is not None
            assert [s.text for s in reply.context.segments()][2:] == ["over to second", "yes"]

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await agent.asked.wait()
            forget_all(caller)
            assert context.root in caller.contexts
            agent.go.set()
        for bus in (caller, one, two):
            await nothing_held(bus)


async def test_a_lost_peer_s_leases_end(socket_dir: Path) -> None:
    async with processes(socket_dir) as (caller, one, _):
        agent = Waiting()
        await one.spawn(agent, name="echo")
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                with pytest.raises(PeerLost):
                    await caller.call("echo", Say(text="yes"), context=talk(caller))

            group.start_soon(ask)
            await agent.asked.wait()
            for peer in caller._sender.peers:
                if peer.name == one.name:
                    peer.link.abort()
        await nothing_held(caller)
        agent.go.set()


async def test_a_receiver_that_forgot_gets_what_the_sender_holds_for_it(pair: Pair) -> None:
    """The sender's store is too small to keep anything else: the lease keeps the context."""
    if pair.kind == "inproc":
        pytest.skip("in one process nothing is asked for")
    settings = BusSettings(context_bytes=4000)
    async with pair.open(settings) as (host, asker):
        await host.spawn(Echo(), name="echo")
        context = talk(asker)
        for number in range(5):
            context = context.user("x" * 2000)
            forget_all(host)
            reply = await asker.call("echo", Say(text=str(number)), context=context)
            assert reply.context == context.message("echo", str(number))


async def test_a_receiver_that_forgot_the_end_is_sent_the_end(socket_dir: Path) -> None:
    async with processes(socket_dir) as (asker, host, _):
        await host.spawn(Echo(), name="echo")
        base = asker.context()
        for _ in range(20):
            base = base.user("x" * 1000)
        await asker.request("echo", Ping(number=1), context=base)
        host.contexts.retain(host.contexts.find(base.root))
        context = base
        for number in range(5):
            context = context.user("y" * 1000)
            await asker.request("echo", Ping(number=number), context=context)
        for bus, sent in ((host, 6000), (asker, 6000)):
            bus.contexts.collect()
            context = context.user("z" * 1000)
            reply = await asker.call("echo", Ping(number=1), context=context)
            new = sent if bus is host else 1000
            assert new < reply.account.sent_bytes < new + 256
        host.contexts.release(base)
        forget_all(host)
        reply = await asker.call("echo", Ping(number=1), context=context.user("end"))
        assert 27000 < reply.account.sent_bytes < 27000 + 32 * 4 + 256


async def test_a_context_is_found_by_reference_for_as_long_as_it_is_retained(pair: Pair) -> None:
    async with pair.open() as (_, asker):
        whole = talk(asker).message("a", "The moon.").user("And the sun?")
        short = whole.summarize("Tides come from the moon.", keep=1)
        (summary,) = [segment for segment in short.segments() if segment.refers]
        with pytest.raises(UnknownContext, match="retain what is to be fetched"):
            asker.contexts.find(summary.refers)
        asker.contexts.retain(whole)
        asker.contexts.collect()
        assert asker.contexts.find(summary.refers) == whole.parent
        asker.contexts.release(whole)
        asker.contexts.collect()
        with pytest.raises(ForgottenContext, match="forgotten here"):
            asker.contexts.find(summary.refers)


class Reader(Agent):
    """Reads what a summary stands for."""

    @handler
    async def say(self, say: Say, call: Call) -> list[str]:
        if call.context is None:
            return []
        found = [await call.fetch(s.refers) for s in call.context.segments() if s.refers]
        return [segment.text for whole in found for segment in whole.segments()]


@pytest.mark.promise("context.fetch")
async def test_the_whole_of_a_summary_is_fetched_from_who_sent_it(socket_dir: Path) -> None:
    async with processes(socket_dir) as (asker, host, other):
        await host.spawn(Reader(), name="reader")
        whole = talk(asker).message("a", "The moon.").user("And the sun?")
        short = whole.summarize("Tides come from the moon.", keep=1)
        asker.contexts.retain(whole)
        said = await asker.request("reader", Say(text="go"), context=short, returns=list[str])
        assert said == [segment.text for segment in whole.segments()[:-1]]
        assert host.contexts.find(short.segments()[1].refers) == whole.parent
        # A process that nothing was sent to does not get it, and cannot tell whether it is there.
        root = short.segments()[1].refers
        await asker.spawn(Echo(), name="echo")
        with pytest.raises(UnknownContext) as caught:
            await other.fetch(root, holder="echo")
        assert type(caught.value) is UnknownContext
        with pytest.raises(NoResponder):
            await other.fetch(root, holder="nobody")
        with pytest.raises(DeadlineExceeded):
            await other.fetch(root, holder="echo", deadline=0)


async def test_what_its_sender_has_forgotten_is_not_fetched(pair: Pair) -> None:
    async with pair.open() as (host, asker):
        await host.spawn(Reader(), name="reader")
        whole = talk(asker).user("And the sun?")
        short = whole.summarize("Tides.", keep=1)
        with pytest.raises(UnknownContext):
            await asker.request("reader", Say(text="go"), context=short, returns=list[str])
        assert whole.parent is not None
        asker.contexts.add(whole)
        said = await asker.request("reader", Say(text="go"), context=short, returns=list[str])
        assert said == [segment.text for segment in whole.parent.segments()]


async def test_a_program_fetches_from_the_process_of_an_agent(socket_dir: Path) -> None:
    class Summing(Agent):
        @handler
        async def say(self, say: Say, call: Call) -> None:
            whole = (call.context or call.empty_context()).message(self.name, say.text)
            call.contexts.retain(whole)
            call.context = whole.summarize("Tides.", keep=0)

    async with processes(socket_dir) as (asker, host, _):
        await host.spawn(Summing(), name="summing")
        context = asker.context().user("Explain.")
        reply = await asker.call("summing", Say(text="At length."), context=context)
        assert reply.context is not None
        (summary,) = reply.context.segments()
        with pytest.raises(UnknownContext):
            await asker.fetch(summary.refers)
        whole = await asker.fetch(summary.refers, holder="summing")
        assert [segment.text for segment in whole.segments()] == ["Explain.", "At length."]
        assert await asker.fetch(summary.refers) == whole


@pytest.mark.pure
async def test_what_is_no_context_or_reference_is_refused_by_name() -> None:
    async with Bus.open() as bus:
        for wrong in ("a text", 3):
            with pytest.raises(ConfigError, match=r"^context: must be a Context"):
                await bus.request("nobody", 1, context=wrong)  # type: ignore[call-overload]
        for reference in ("ctx:deadbeef", None, 3):
            with pytest.raises(ConfigError, match=r"^reference: must be the root of a context"):
                bus.contexts.find(reference)  # type: ignore[arg-type]
            with pytest.raises(ConfigError, match=r"call\.context\.fetch"):
                await bus.fetch(reference)  # type: ignore[arg-type]


@pytest.mark.pure
async def test_what_are_no_settings_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"^settings: must be BusSettings"):
        Bus.open(settings={"links": 3})  # type: ignore[arg-type]
    async with Bus.open() as bus:
        with pytest.raises(ConfigError, match=r"^settings: must be EngineSettings"):
            await bus.serve("fake:", {"threads": 1})  # type: ignore[arg-type]
