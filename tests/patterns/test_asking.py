"""Gather, hedge and retry, in process and over a socket alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from agentbus import Agent, Bus, BusSettings, Call, handler
from agentbus.errors import (
    ConfigError,
    DeadlineExceeded,
    HandlerFailed,
    MailboxFull,
    NoResponder,
    QuorumMissed,
    RequestCancelled,
)
from agentbus.patterns import Ask, gather, hedged, retried

from ..client.agents import Boom, Echo, Hold, Ping, Pong
from ..client.conftest import Pair

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def team(pair: Pair, *names: str) -> AsyncIterator[tuple[Bus, dict[str, Echo]]]:
    async with pair.open() as (host, asker):
        members = {name: Echo() for name in names}
        for name, member in members.items():
            await host.spawn(member, name=name)
        yield asker, members


@pytest.mark.promise("order.gather")
async def test_replies_stand_in_the_order_of_the_questions(pair: Pair) -> None:
    async with team(pair, "a", "b") as (bus, _):
        asks = [Ask("ab"[n % 2], Ping(number=n)) for n in range(20)]
        gathered = await gather(bus, asks)
    assert gathered.values == [Pong(number=n, by="ab"[n % 2]) for n in range(20)]


class Speaker(Agent):
    """Says its name on the context."""

    @handler
    async def speak(self, text: str, call: Call) -> None:
        context = call.context or call.empty_context()
        call.context = context.ask(text).message(self.name, f"I am {self.name}.")


async def test_contexts_of_replies_are_joined_in_the_order_of_the_questions(pair: Pair) -> None:
    async with pair.open() as (host, bus):
        for name in "abc":
            await host.spawn(Speaker, name=name)
        context = bus.context().user("Who is there?")
        asks = [Ask(name, "Speak.", context) for name in ("b", "nobody", "c", "a")]
        gathered = await gather(bus, asks, deadline=5)
    joined = context.join(gathered.contexts)
    said = [segment.text for segment in joined.segments()]
    assert said == ["Who is there?", "Speak.", "I am b.", "I am c.", "I am a."]


async def test_errors_stand_beside_replies(pair: Pair) -> None:
    async with team(pair, "a") as (bus, _):
        asks = [Ask("nobody", Ping(number=1)), Ask("a", Ping(number=2)), Ask("a", Boom(text="x"))]
        gathered = await gather(bus, asks, deadline=5)
    first, second, third = gathered.outcomes
    assert isinstance(first, NoResponder)
    assert isinstance(third, HandlerFailed)
    assert gathered.replies == [second]


async def test_a_quorum_cancels_the_rest(pair: Pair) -> None:
    async with team(pair, "a", "b", "slow") as (bus, members):
        asks = [Ask("slow", Hold()), Ask("a", Ping(number=1)), Ask("b", Ping(number=2))]
        with anyio.fail_after(5):
            gathered = await gather(bus, asks, quorum=2)
            await members["slow"].cancelled.wait()
    assert isinstance(gathered.outcomes[0], RequestCancelled)
    assert [value.number for value in gathered.values] == [1, 2]


async def test_a_quorum_that_cannot_be_reached_ends_at_once(pair: Pair) -> None:
    async with team(pair, "a", "slow") as (bus, members):
        asks = [Ask("slow", Hold()), Ask("nobody", Ping(number=1)), Ask("a", Ping(number=2))]
        with anyio.fail_after(5), pytest.raises(QuorumMissed, match="3 were wanted") as missed:
            await gather(bus, asks, quorum=3)
        if members["slow"].held.is_set():  # else it was not reached before the others had failed
            with anyio.fail_after(5):
                await members["slow"].cancelled.wait()
    assert isinstance(missed.value.outcomes[1], NoResponder)
    with pytest.raises(ConfigError):
        await gather(Bus.open(), asks, quorum=4)
    with pytest.raises(ConfigError):
        await gather(Bus.open(), asks, quorum=0)


async def test_a_deadline_leaves_partial_results(pair: Pair) -> None:
    async with team(pair, "a", "slow") as (bus, _):
        asks = [Ask("slow", Hold()), Ask("a", Ping(number=2))]
        gathered = await gather(bus, asks, deadline=0.1)
    assert isinstance(gathered.outcomes[0], DeadlineExceeded)
    assert [value.number for value in gathered.values] == [2]


async def test_a_hedge_goes_out_when_the_first_is_slow(pair: Pair) -> None:
    async with team(pair, "slow", "quick") as (bus, members):
        asks = [Ask("slow", Hold()), Ask("quick", Ping(number=1))]
        with anyio.fail_after(5):
            reply = await hedged(bus, asks, after=0.02)
            await members["slow"].cancelled.wait()
    assert reply.value.by == "quick"


async def test_a_hedge_stays_home_when_the_first_is_quick(pair: Pair) -> None:
    async with team(pair, "a", "b") as (bus, members):
        asks = [Ask("a", Ping(number=1)), Ask("b", Ping(number=2))]
        assert (await hedged(bus, asks, after=5)).value.by == "a"
        assert members["b"].seen == []


async def test_a_hedge_goes_out_at_once_when_the_first_failed(pair: Pair) -> None:
    async with team(pair, "b") as (bus, _):
        asks = [Ask("nobody", Ping(number=1)), Ask("b", Ping(number=2))]
        with anyio.fail_after(5):
            assert (await hedged(bus, asks, after=60)).value.by == "b"
        asks = [Ask("b", Boom(text="x")), Ask("nobody", Ping(number=2))]
        with anyio.fail_after(5), pytest.raises(NoResponder):
            await hedged(bus, asks, after=60)
        with pytest.raises(ConfigError):
            await hedged(bus, [], after=1)


async def test_copies_share_the_deadline(pair: Pair) -> None:
    async with team(pair, "a") as (bus, _):
        asks = [Ask("a", Hold())] * 3
        with anyio.fail_after(5), pytest.raises(DeadlineExceeded):
            await hedged(bus, asks, after=0.03, deadline=0.1)


class Moody(Agent):
    """Refuses the first few."""

    def __init__(self, refusals: int) -> None:
        self.left = refusals
        self.asked = 0

    @handler
    async def ping(self, ping: Ping, call: Call) -> int:
        self.asked += 1
        if self.left:
            self.left -= 1
            raise MailboxFull("moody", 0)
        return self.asked


async def test_a_refused_request_is_made_again(pair: Pair) -> None:
    async with pair.with_agent(Moody(2)) as bus:
        reply = await retried(bus, Ask("echo", Ping(number=1)), backoff=0.001)
        assert reply.value == 3


async def test_retries_end(pair: Pair) -> None:
    moody = Moody(9)
    async with pair.with_agent(moody) as bus:
        with pytest.raises(MailboxFull):
            await retried(bus, Ask("echo", Ping(number=1)), attempts=4, backoff=0)
        assert moody.asked == 4
        moody.left = 10**6
        with anyio.fail_after(5), pytest.raises((MailboxFull, DeadlineExceeded)):
            ask = Ask("echo", Ping(number=1))
            await retried(bus, ask, attempts=10**6, backoff=1e6, deadline=0.2)
        with pytest.raises(ConfigError):
            await retried(bus, Ask("echo", Ping(number=1)), attempts=0)


async def test_what_may_have_been_handled_is_not_made_again(pair: Pair) -> None:
    echo = Echo()
    async with pair.with_agent(echo, BusSettings()) as bus:
        with pytest.raises(HandlerFailed):
            await retried(bus, Ask("echo", Boom(text="x")), backoff=0, idempotent=True)


async def test_a_handler_gathers_within_its_own_deadline(pair: Pair) -> None:
    class Lead(Agent):
        @handler
        async def ask(self, text: str, call: Call) -> int:
            gathered = await gather(call, [Ask("a", Hold()), Ask("a", Ping(number=5))])
            return sum(value.number for value in gathered.values)

    Echo.concurrency = 2
    try:
        async with pair.open() as (host, asker):
            await host.spawn(Echo(), name="a")
            await host.spawn(Lead(), name="lead")
            with pytest.raises(DeadlineExceeded):
                await asker.request("lead", "go", deadline=0.1)
    finally:
        Echo.concurrency = 1
