"""Agents in several processes under one broker; here the processes share a loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from agentbus import Agent, Bus, BusSettings, Call, Limits, handler
from agentbus.daemon import start_broker
from agentbus.errors import (
    AgentbusError,
    DeadlineExceeded,
    InvalidMessage,
    NameTaken,
    NoResponder,
    PeerLost,
)
from agentbus.messages import Envelope, Kind
from agentbus.routing import PRESENCE
from agentbus.transport import Link, connect_unix, listen_unix
from agentbus.wire import Hello

from .agents import Echo, Hold, Ping, Pong, Relay, Say

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def broker(folder: Path) -> AsyncIterator[str]:
    path = f"{folder}/run/bus.sock"
    async with Bus.open(listen=path, name="broker") as bus:
        await start_broker(bus)
        yield f"unix://{path}"


async def test_agents_find_each_other(socket_dir: Path) -> None:
    async with broker(socket_dir) as url:
        async with Bus.open(url) as a, Bus.open(url) as b, Bus.open(url) as program:
            await a.spawn(Echo(), name="first")
            await b.spawn(Echo(), name="second")
            pong = await program.request("first", Relay(to="second", number=1), returns=Pong)
            assert pong == Pong(number=1, by="second")
            listed = {agent.name: agent for agent in await program.agents()}
            assert set(listed) == {"first", "second"}
            assert listed["first"].peer == a.name
            assert listed["first"].role == "You repeat what you hear."


async def test_names_are_unique_and_free_again_when_a_process_leaves(socket_dir: Path) -> None:
    async with broker(socket_dir) as url, Bus.open(url) as b:
        async with Bus.open(url) as a:
            await a.spawn(Echo(), name="echo")
            with pytest.raises(NameTaken):
                await b.spawn(Echo(), name="echo")
            assert (await b.request("echo", Ping(number=1))).number == 1
        with pytest.raises(NoResponder):
            await b.request("echo", Ping(number=1))
        await b.spawn(Echo(), name="echo")
        assert (await b.request("echo", Ping(number=2))).number == 2


async def test_an_agent_that_fails_to_start_lets_go_of_its_name(socket_dir: Path) -> None:
    class Stillborn(Echo):
        async def started(self) -> None:
            raise ValueError("no")

    async with broker(socket_dir) as url, Bus.open(url) as bus, Bus.open(url) as other:
        with pytest.raises(ValueError, match="no"):
            await bus.spawn(Stillborn(), name="echo")
        with pytest.raises(NoResponder):
            await other.request("echo", Ping(number=1))
        await other.spawn(Echo(), name="echo")
        assert (await bus.request("echo", Ping(number=1))).number == 1


@pytest.mark.promise("ends.peer-lost")
async def test_a_process_that_dies_fails_its_requests(socket_dir: Path) -> None:
    outcome: list[BaseException] = []

    async def ask(bus: Bus) -> None:
        try:
            await bus.request("echo", Hold())
        except PeerLost as error:
            outcome.append(error)

    echo = Echo()
    async with broker(socket_dir) as url, Bus.open(url) as asker:
        async with Bus.open(url, name="doomed") as doomed:
            await doomed.spawn(echo, name="echo")
            async with anyio.create_task_group() as group:
                group.start_soon(ask, asker)
                await echo.held.wait()
                for peer in doomed._sender.peers:
                    peer.link.abort()
    assert len(outcome) == 1
    assert "doomed" in str(outcome[0])


async def test_contexts_go_by_reference(socket_dir: Path) -> None:
    """A hop's bytes are what is new plus a constant, however long the conversation is."""
    async with broker(socket_dir) as url:
        async with Bus.open(url) as a, Bus.open(url) as b, Bus.open(url) as program:
            await a.spawn(Echo(), name="a")
            await b.spawn(Echo(), name="b")
            context = program.context().document("d" * 5000)
            sizes = []
            for hop in range(30):
                target = "ab"[hop % 2]
                reply = await program.call(target, Say(text="x" * 100), context=context)
                assert reply.context is not None
                context = reply.context
                sizes.append(reply.account.sent_bytes)
            assert context.length == 31
            assert 5000 < sizes[0] < 5000 + 256
            assert 5000 < sizes[1] < 5100 + 100 + 256
            assert max(sizes[2:]) < 200 + 256
            assert max(sizes[2:]) - min(sizes[2:]) < 8


async def test_a_receiver_that_forgot_asks_again(socket_dir: Path) -> None:
    async with broker(socket_dir) as url, Bus.open(url) as a, Bus.open(url) as program:
        await a.spawn(Echo(), name="a")
        context = program.context().document("d" * 5000)
        first = await program.call("a", Say(text="one"), context=context)
        held = a._sender.peers._contexts.store
        held._kept.clear()
        held._segments.clear()
        held._ends.clear()
        assert first.context is not None
        second = await program.call("a", Say(text="two"), context=first.context)
        assert second.context == first.context.message("a", "two")
        assert second.account.sent_bytes > 5000


async def test_an_agent_whose_socket_is_gone_is_lost(socket_dir: Path) -> None:
    async with broker(socket_dir) as url, Bus.open(url) as gone, Bus.open(url) as program:
        await gone.spawn(Echo(), name="echo")
        await anyio.Path(gone.listens_at).unlink()
        with pytest.raises(PeerLost, match=gone.name):
            await program.request("echo", Ping(number=1))


@pytest.mark.promise("ends.deadline")
async def test_a_home_that_says_nothing_ends_in_the_deadline(socket_dir: Path) -> None:
    class Silent:
        def link_opened(self, link: Link) -> None:
            pass

        def received(self, link: Link, envelopes: Sequence[Envelope]) -> None:
            pass

        def link_broken(self, link: Link) -> None:
            pass

        def link_lost(self, link: Link, error: AgentbusError | None) -> None:
            pass

    path = f"{socket_dir}/run/bus.sock"
    settings = BusSettings(default_deadline=0.1)
    async with await listen_unix(path, Silent(), Hello(peer="silent"), settings.limits):
        with anyio.fail_after(5), pytest.raises(DeadlineExceeded):
            async with Bus.open(f"unix://{path}", settings=settings):
                pass


async def test_a_context_too_large_to_be_sent_again_fails_its_request_only(
    socket_dir: Path,
) -> None:
    """The link, and what else is under way on it, goes on."""
    async with broker(socket_dir) as url, Bus.open(url) as a, Bus.open(url) as program:
        await a.spawn(Echo(), name="a")
        context = program.context()
        for _ in range(3):
            for _ in range(2000):
                context = context.user("x")
            reply = await program.call("a", Ping(number=1), context=context)
        assert reply.context is not None
        held = a._sender.peers._contexts.store
        held._kept.clear()
        held._segments.clear()
        held._ends.clear()
        with pytest.raises(InvalidMessage, match="6000 segments"):
            await program.call("a", Ping(number=2), context=context)
        assert (await program.request("a", Ping(number=3))).number == 3


async def test_a_second_link_under_one_name_does_not_unseat_the_first(socket_dir: Path) -> None:
    async with broker(socket_dir) as url, Bus.open(url) as a, Bus.open(url) as program:
        await a.spawn(Echo(), name="echo")
        opened, lost = anyio.Event(), anyio.Event()

        class Impostor:
            def link_opened(self, link: Link) -> None:
                opened.set()

            def received(self, link: Link, envelopes: Sequence[Envelope]) -> None:
                pass

            def link_broken(self, link: Link) -> None:
                pass

            def link_lost(self, link: Link, error: AgentbusError | None) -> None:
                lost.set()

        path = url.removeprefix("unix://")
        link = await connect_unix(path, Impostor(), Hello(peer=a.name), Limits(), timeout=5)
        async with a.subscribe("n") as messages:
            await program.publish("n", 1)
            with anyio.fail_after(5):
                assert (await anext(messages)).value == 1
        await link.aclose()
        with anyio.fail_after(5):
            await lost.wait()
        assert (await program.request("echo", Ping(number=1))).number == 1


async def test_a_reply_whose_context_never_comes_is_forgotten_with_its_deadline(
    socket_dir: Path,
) -> None:
    class Secretive(Agent):
        @handler
        async def ping(self, ping: Ping, call: Call) -> None:
            call.context = call.empty_context().user("secret").message("a", "open")

        @handler
        async def greet(self, text: str, call: Call) -> str:
            return text

    async with broker(socket_dir) as url, Bus.open(url) as a, Bus.open(url) as program:
        await a.spawn(Secretive(), name="a")
        assert await program.request("a", "hello", returns=str) == "hello"
        (at_a,) = [peer for peer in a._sender.peers if peer.name == program.name]
        (to_a,) = [peer for peer in program._sender.peers if peer.name == a.name]
        at_a.contexts.known.add(program.context().user("secret").root)
        exchange = a._sender.peers._contexts
        exchange.answer = lambda peer, want: Envelope(Kind.CANCEL, 10**9)  # type: ignore[method-assign]
        with pytest.raises(DeadlineExceeded):
            await program.call("a", Ping(number=1), deadline=0.05)
        assert not to_a.contexts.waiting
        assert not to_a.contexts.asked_again


@pytest.mark.promise("autogen-7016")
async def test_askers_whose_requests_have_equal_numbers_get_their_own_replies(
    socket_dir: Path,
) -> None:
    async def ask(bus: Bus, first: int) -> None:
        for number in range(first, first + 300):
            assert (await bus.request("echo", Ping(number=number), returns=Pong)).number == number

    async with broker(socket_dir) as url:
        async with Bus.open(url) as host, Bus.open(url) as one, Bus.open(url) as other:
            await host.spawn(Echo(), name="echo")
            async with anyio.create_task_group() as group:
                for first, bus in ((0, one), (1000, other), (2000, host)):
                    group.start_soon(ask, bus, first)


@pytest.mark.promise("back.home")
async def test_a_process_that_came_back_is_found_by_who_comes_later(socket_dir: Path) -> None:
    path = f"{socket_dir}/run/bus.sock"
    async with Bus.open(listen=path, name="broker") as home:
        await start_broker(home)
        settings = BusSettings(resume_timeout=0)
        async with Bus.open(f"unix://{path}", settings=settings) as host:
            await host.spawn(Echo(), name="echo")
            (peer,) = home._sender.peers
            lost = host._sender.routes.home
            async with home.subscribe(PRESENCE) as presences:
                peer.link.abort()
                with anyio.fail_after(10):
                    while not (await anext(presences)).value.present:
                        pass
            assert host._sender.routes.home is not lost
            async with Bus.open(f"unix://{path}") as program:
                reply = await program.request("echo", Ping(number=1), returns=Pong)
                assert reply.number == 1
