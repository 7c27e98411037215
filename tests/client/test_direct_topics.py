"""Publishing past the broker: who listens is sent to directly, and nobody can tell by what comes."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from agentbus import Bus, BusSettings, Subscription
from agentbus.client.direct import CLOSE
from agentbus.client.ways import HOT
from agentbus.config import Limits
from agentbus.daemon import start_broker
from agentbus.errors import Closed, InvalidMessage, InvalidName
from agentbus.routing import (
    MAX_DIRECT,
    MAX_WAYS,
    Audience,
    Fence,
    FindListeners,
    LeaveOut,
    Listen,
    PassBy,
    Passed,
    Readmit,
    Renew,
    Renewed,
    Uncover,
)

from .conftest import until
from .direct_topics import (  # noqa: F401 - a fixture is among them
    RAPID,
    TOPIC,
    Late,
    Numbers,
    book_of,
    buses,
    direct,
    is_covered,
    link_to,
    linked,
    listeners,
    look_at_once,
    named,
    way_of,
)
from .policies import allow, policy, token_of, tokens

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("look_at_once")]


@pytest.mark.promise("topic.all")
async def test_who_publishes_much_sends_to_who_listens_and_not_to_the_broker(
    socket_dir: Path,
) -> None:
    async with buses(socket_dir, "p", "s") as (broker, p, s), s.subscribe(TOPIC) as messages:
        numbers = Numbers(p)
        await numbers.go_direct("s")
        await numbers.all_read(messages)
        home = link_to(p, "broker")
        passed_on = link_to(broker, "s")
        before, first = passed_on.link.bytes_sent, numbers.next
        direct(p).close()  # no renewals, which go to the broker
        sent = home.link.bytes_sent
        await numbers.publish(RAPID)
        await numbers.all_read(messages, first)
        assert home.link.bytes_sent == sent
        assert passed_on.link.bytes_sent == before


async def test_a_few_messages_go_by_the_broker(socket_dir: Path) -> None:
    async with buses(socket_dir, "p", "s") as (_, p, s), s.subscribe(TOPIC) as messages:
        numbers = Numbers(p)
        await numbers.publish(HOT - 1)
        await numbers.all_read(messages)
        assert not listeners(p)
        assert linked(p) == {"broker"}


@pytest.mark.promise("topic.all")
async def test_who_subscribes_later_gets_all_that_comes_after(socket_dir: Path) -> None:
    async with (
        buses(socket_dir, "p", "s", "late") as (_, p, s, late),
        s.subscribe(TOPIC) as messages,
    ):
        numbers = Numbers(p)
        await numbers.go_direct("s")
        for pattern in (TOPIC, "*", ">"):
            assert is_covered(p)
            async with late.subscribe(pattern) as others:
                first = numbers.next
                await numbers.publish(3)
                await numbers.all_read(others, first)
                first = numbers.next
                await numbers.go_direct("s", "late")
                await numbers.all_read(others, first)
            await until(lambda: listeners(p) == {"s"})
            await numbers.go_direct("s")
        await numbers.all_read(messages)


@pytest.mark.promise("topic.all")
async def test_the_brokers_own_subscriber_gets_all_that_comes_after(socket_dir: Path) -> None:
    async with (
        buses(socket_dir, "p", "s") as (broker, p, s),
        s.subscribe(TOPIC) as messages,
    ):
        numbers = Numbers(p)
        await numbers.go_direct("s")
        async with broker.subscribe(TOPIC) as own:
            first = numbers.next
            await numbers.publish(RAPID)
            await numbers.all_read(own, first)
        await numbers.all_read(messages)


async def test_who_listens_no_more_is_sent_nothing(socket_dir: Path) -> None:
    async with buses(socket_dir, "p", "s") as (_, p, s):
        numbers = Numbers(p)
        async with s.subscribe(TOPIC):
            await numbers.go_direct("s")
            link = link_to(p, "s").link
        await until(lambda: not listeners(p))
        sent = link.bytes_sent
        await numbers.publish(RAPID)
        await asyncio.sleep(0)
        assert link.bytes_sent == sent
        async with s.subscribe(TOPIC) as again:
            first = numbers.next
            await numbers.go_direct("s")
            await numbers.all_read(again, first)


async def test_who_leaves_has_read_all_that_it_was_sent(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that nothing comes late that would mix with what comes another way afterwards."""
    fences = Late(monkeypatch, Fence).heard
    async with buses(socket_dir, "p", "s") as (_, p, s):
        async with s.subscribe(TOPIC):
            await Numbers(p).go_direct("s")
            assert fences == ["broker"]
        assert fences == ["broker", "p"]


async def test_a_publisher_that_went_away_is_forgotten(socket_dir: Path) -> None:
    async with buses(socket_dir, "s") as (broker, s), s.subscribe(TOPIC):
        async with Bus.open(f"unix://{socket_dir}/run/bus.sock", name="p") as p:
            await Numbers(p).go_direct("s")
            assert len(book_of(broker)) == 1
        await until(lambda: not len(book_of(broker)))


async def test_to_more_than_a_few_the_broker_passes_it_on(socket_dir: Path) -> None:
    async with buses(socket_dir, "p", *map(str, range(MAX_DIRECT + 1))) as (_, p, *others):
        node = p._sender

        async def audience() -> int:
            home, origin = link_to(p, "broker"), node.program_origin(5)
            found = await node.tell(home, FindListeners(TOPIC), origin, Audience)
            return len(found.processes)

        async with AsyncExitStack() as stack:
            for count, bus in enumerate(others, 1):
                await stack.enter_async_context(bus.subscribe(TOPIC))
                assert await audience() == count % (MAX_DIRECT + 1)


async def test_an_answer_that_was_overtaken_covers_nothing(socket_dir: Path) -> None:
    async with buses(socket_dir, "p", "s") as (_, p, s), s.subscribe(TOPIC):
        await Numbers(p).go_direct("s")
        way, now = way_of(p), p._sender.now()
        direct(p).uncover(Uncover(TOPIC, 1000))
        for cover, holds in ((999, False), (1000, False), (1001, True)):
            direct(p)._covered(way, cover, now)
            assert (way.until > now) is holds


@pytest.mark.promise("topic.all")
async def test_a_listener_without_a_direct_link_gets_it_by_the_broker_again(
    socket_dir: Path,
) -> None:
    settings = BusSettings(resume_timeout=0)
    async with (
        buses(socket_dir, "p", "s", settings=settings) as (_, p, s),
        s.subscribe(TOPIC) as messages,
    ):
        numbers = Numbers(p)
        await numbers.go_direct("s")
        await numbers.all_read(messages)
        peer = link_to(p, "s")
        peer.link.abort()
        await until(lambda: linked(p) == {"broker"})
        assert not listeners(p)
        first = numbers.next
        await numbers.publish(3)
        await numbers.all_read(messages, first)
        first = numbers.next
        await numbers.go_direct("s")
        await numbers.all_read(messages, first)


async def test_a_listener_that_went_away_harms_nobody(socket_dir: Path) -> None:
    async with (
        buses(socket_dir, "p", "s") as (_, p, s),
        s.subscribe(TOPIC) as messages,
    ):
        numbers = Numbers(p)
        async with Bus.open(f"unix://{socket_dir}/run/bus.sock", name="t") as t:
            with pytest.raises(Closed):
                async with t.subscribe(TOPIC):
                    await numbers.go_direct("s", "t")
                    for peer in t._sender.peers:
                        peer.link.abort()
        await until(lambda: listeners(p) == {"s"})
        await numbers.publish(RAPID)
        await numbers.go_direct("s")
        await numbers.all_read(messages)


@pytest.mark.promise("flow.slow")
async def test_a_listener_that_does_not_answer_holds_up_nobody_else(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BusSettings(limits=Limits(write_buffer=1024 * 1024))
    async with (
        buses(socket_dir, "p", "s", "deaf", settings=settings) as (_, p, s, deaf),
        s.subscribe(TOPIC) as messages,
        deaf.subscribe(TOPIC),
    ):
        Late(monkeypatch, Fence, deaf)
        numbers = Numbers(p)
        with anyio.fail_after(10):
            while listeners(p) != {"s"}:
                await numbers.publish()
                await asyncio.sleep(0)
        for _ in range(5):
            await p._sender.tell_home("+other")
        first = numbers.next
        for _ in range(5):
            await numbers.publish(1000)
            await numbers.all_read(messages, numbers.next - 1000)
        (move,) = way_of(p).moves
        assert named(move.peer) == "deaf"
        held = len(move.held)
        assert 1000 < held < 5000
        assert p.report().dropped >= 5000 - held
        assert move.held[0][0] == ""
        assert first + 5000 == numbers.next


@pytest.mark.promise("topic.all")
async def test_a_publisher_that_does_not_answer_holds_up_who_subscribes_for_a_second_at_most(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        buses(socket_dir, "p", "s", "late") as (_, p, s, late),
        s.subscribe(TOPIC) as messages,
    ):
        Late(monkeypatch, Uncover, p)
        numbers = Numbers(p)
        await numbers.go_direct("s")
        direct(p).close()
        assert is_covered(p)
        with anyio.fail_after(5):
            async with late.subscribe(TOPIC) as others:
                assert not is_covered(p)
                first = numbers.next
                await numbers.publish(RAPID)
                await numbers.all_read(others, first)
        await numbers.all_read(messages)


async def test_a_way_that_is_not_used_is_given_up(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentbus.client.direct_topics._RENEW_EVERY", 0.01)
    async with (
        buses(socket_dir, "p", "s", settings=BusSettings(idle_link=0.1)) as (broker, p, s),
        s.subscribe(TOPIC) as messages,
    ):
        numbers = Numbers(p)
        await numbers.go_direct("s")
        await until(lambda: not listeners(p))
        await until(lambda: linked(p) == {"broker"})
        await numbers.publish(3)
        await numbers.all_read(messages)
        assert not len(book_of(broker))


@pytest.mark.promise("link.cap")
async def test_a_link_that_is_published_over_is_not_idle(socket_dir: Path) -> None:
    async with (
        buses(socket_dir, "p", "s", settings=BusSettings(idle_link=0.05)) as (_, p, s),
        s.subscribe(TOPIC) as messages,
    ):
        numbers = Numbers(p)
        await numbers.go_direct("s")
        peer = link_to(p, "s")
        node = s._sender
        origin = node.program_origin(5)
        assert await node.tell(link_to(s, "p"), CLOSE, origin, bool) is False
        for _ in range(20):
            await numbers.publish()
            await asyncio.sleep(0.01)
        assert not peer.link.closing
        await numbers.all_read(messages)


@pytest.mark.promise("link.cap")
async def test_without_leave_to_make_links_all_goes_by_the_broker(socket_dir: Path) -> None:
    async with (
        buses(socket_dir, "p", "s", "t", settings=BusSettings(links=1)) as (_, p, s, t),
        s.subscribe(TOPIC) as messages,
        t.subscribe(TOPIC) as others,
    ):
        numbers = Numbers(p)
        for _ in range(3):
            await numbers.publish(RAPID)
            assert way_of(p).busy
            await until(lambda: not way_of(p).busy)
        await numbers.all_read(messages)
        await numbers.all_read(others)
        assert not listeners(p)
        assert linked(p) == {"broker"}


@pytest.mark.promise("back.home")
async def test_with_a_new_broker_all_begins_anew(socket_dir: Path) -> None:
    path = f"{socket_dir}/run/bus.sock"
    settings = BusSettings(resume_timeout=0)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        async with Bus.open(listen=path, name="broker") as broker:
            await start_broker(broker)
            p = await enter(Bus.open(f"unix://{path}", name="p", settings=settings))
            s = await enter(Bus.open(f"unix://{path}", name="s", settings=settings))
            messages = await enter(s.subscribe(TOPIC))
            numbers = Numbers(p)
            await numbers.go_direct("s")
            await numbers.all_read(messages)
            for peer in broker._sender.peers:
                peer.link.abort()
            await until(lambda: p._sender.routes.home is None and s._sender.routes.home is None)
            assert not listeners(p)
        again = await enter(Bus.open(listen=path, name="broker"))
        await start_broker(again)
        await until(lambda: len(list(again._sender.peers)) == 2)
        await until(lambda: len(again._sender.topics.subscribers(TOPIC)) == 1)
        await until(lambda: p._sender.routes.home is not None)
        first = numbers.next
        await numbers.go_direct("s")
        await numbers.all_read(messages, first)


@pytest.mark.promise("peer.may")
async def test_where_there_is_a_policy_all_goes_by_the_broker(socket_dir: Path) -> None:
    path = f"{socket_dir}/run/bus.sock"
    url = f"unix://{path}"
    async with Bus.open(listen=path, name="broker") as bus:
        guard = await start_broker(bus, tokens=tokens("ann", "bob"))
        async with (
            Bus.open(url, name="ann", token=token_of("ann")) as p,
            Bus.open(url, name="bob", token=token_of("bob")) as s,
            s.subscribe(TOPIC) as messages,
        ):
            numbers = Numbers(p)
            await numbers.go_direct("bob")
            await numbers.all_read(messages)
            everything = policy(allow("token:ann", "*"), allow("token:bob", "*"))
            guard.renew(everything, tokens("ann", "bob"))
            await until(lambda: p._sender.gate is not None and s._sender.gate is not None)
            assert not listeners(p)
            assert not p._sender.routes.may_pass_by
            first = numbers.next
            await numbers.publish(RAPID)
            await numbers.all_read(messages, first)
            book_of(bus).pass_by(link_to(bus, "ann"), TOPIC, link_to(bus, "bob"))
            home = link_to(p, "broker")
            origin = p._sender.program_origin(5)
            assert await p._sender.tell(home, FindListeners(TOPIC), origin, Audience) == Audience()
            name = s._sender.name
            assert await p._sender.tell(home, PassBy(TOPIC, name), origin, Passed) == Passed(0)
            assert await p._sender.tell(home, Renew((TOPIC,)), origin, Renewed) == Renewed()


@pytest.mark.promise("peer.hostile")
async def test_what_is_said_about_it_is_taken_from_whom_it_concerns(socket_dir: Path) -> None:
    async with buses(socket_dir, "p", "s") as (_, p, s), s.subscribe(TOPIC):
        await Numbers(p).go_direct("s")
        to_s = link_to(p, "s")
        home = link_to(p, "broker")

        async def say(peer: object, said: object, returns: type | None = None) -> object:
            origin = p._sender.program_origin(5)
            return await p._sender.tell(peer, said, origin, returns)  # type: ignore[arg-type]

        for said in (Listen(), Uncover(TOPIC, 1), LeaveOut(TOPIC, "s", 1)):
            for peer in (to_s, home):
                with pytest.raises(InvalidMessage, match="the broker alone"):
                    await say(peer, said)
        for asked in (FindListeners(TOPIC), PassBy(TOPIC, "s"), Readmit(TOPIC, ()), Renew(())):
            with pytest.raises(InvalidMessage, match="a broker alone"):
                await say(to_s, asked)
        for wrong in (FindListeners("a..b"), PassBy("", "s"), Renew(("*",))):
            with pytest.raises(InvalidName):
                await say(home, wrong)
        with pytest.raises(InvalidMessage, match="over 256"):
            await say(home, Renew((TOPIC,) * (MAX_WAYS + 1)))
        assert await say(home, PassBy(TOPIC, "nobody"), Passed) == Passed(0)
        assert await say(home, PassBy(TOPIC, "p"), Passed) == Passed(0)
        assert await say(home, FindListeners("$presence"), Audience) == Audience()
        assert await say(home, FindListeners("nobody.listens"), Audience) == Audience()
        await say(home, Readmit("other", ("s",)))


class Crowd:
    """Two processes publish in bursts while others subscribe and leave, all at random."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.sent = {"p": 0, "q": 0}
        self.direct: set[str] = set()
        """Who was sent to directly at some time."""
        self.done = False

    async def wait(self, turns: int) -> None:
        for _ in range(self.rng.randrange(turns)):
            await asyncio.sleep(0)

    async def publish(self, bus: Bus, name: str) -> None:
        while not self.done:
            for _ in range(self.rng.randrange(200)):
                await bus.publish(TOPIC, (name, self.sent[name]))
                self.sent[name] += 1
            self.direct |= listeners(bus)
            await self.wait(6)

    async def listen(self, bus: Bus) -> None:
        for _ in range(4):
            await self.wait(60)
            async with bus.subscribe(self.rng.choice((TOPIC, "*", ">"))) as messages:
                begun = dict(self.sent)
                await self.wait(300)
                seen = await self.read(messages, dict(self.sent))
            for name, numbers in seen.items():
                assert numbers == sorted(set(numbers)), "once each, in order"
                later = [number for number in numbers if number >= begun[name]]
                assert later == list(range(begun[name], begun[name] + len(later))), "all of them"

    async def read(self, messages: Subscription, until: dict[str, int]) -> dict[str, list[int]]:
        """Read up to the last number before `until` of each publisher."""
        seen: dict[str, list[int]] = {name: [-1] for name in until}
        with anyio.fail_after(20):
            while any(seen[name][-1] < number - 1 for name, number in until.items()):
                name, number = (await anext(messages)).value
                seen[name].append(number)
        return {name: numbers[1:] for name, numbers in seen.items()}


@pytest.mark.promise("topic.all")
@pytest.mark.parametrize("seed", range(4))
async def test_whoever_comes_and_goes_gets_each_message_once_and_in_order(
    socket_dir: Path, seed: int
) -> None:
    async with buses(socket_dir, "p", "q", "a", "b", "c", "d") as (_, p, q, *others):
        crowd = Crowd(seed)
        async with anyio.create_task_group() as publishers:
            publishers.start_soon(crowd.publish, p, "p")
            publishers.start_soon(crowd.publish, q, "q")
            async with anyio.create_task_group() as group:
                for bus in others:
                    group.start_soon(crowd.listen, bus)
            crowd.done = True
        assert crowd.direct
        assert p.report().dropped == q.report().dropped == 0
