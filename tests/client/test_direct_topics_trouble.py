"""Publishing past the broker when something goes wrong in the middle of it."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentbus import Bus, BusSettings
from agentbus.client.delivery import Delivery
from agentbus.client.exchange import Pending
from agentbus.client.link_control import LinkControl
from agentbus.client.node import Node
from agentbus.client.payload import payload_type
from agentbus.client.peer import Peer
from agentbus.client.routes import Routes
from agentbus.config import Limits
from agentbus.errors import LinkFull
from agentbus.routing import (
    MAX_WAYS,
    Audience,
    Fence,
    FindListeners,
    LeaveOut,
    Listen,
    Listener,
    PassBy,
    Passed,
    Readmit,
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

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("look_at_once")]


async def begin_move(numbers: Numbers) -> None:
    """Publish until listeners are on their way from the broker's messages."""
    with anyio.fail_after(10):
        while direct(numbers.bus).ways.of(TOPIC) is None or not way_of(numbers.bus).moves:
            await numbers.publish()
            await asyncio.sleep(0)


async def test_a_home_that_cannot_be_told_of_a_move_is_not_given_up(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say = Node.say

    def refused(self: Node, peer: Peer, said: object, *rest: Any) -> Pending:
        if isinstance(said, PassBy | Readmit):
            raise LinkFull(peer.name, 1)
        return say(self, peer, said, *rest)

    async with buses(socket_dir, "p", "s") as (_, p, s), s.subscribe(TOPIC) as messages:
        monkeypatch.setattr(Node, "say", refused)
        numbers, home = Numbers(p), link_to(p, "broker")
        await numbers.publish(RAPID)
        await until(lambda: not way_of(p).busy)
        await p._sender.tell_home("+other")
        assert not home.link.closing
        await numbers.publish(3)
        await numbers.all_read(messages)
        assert p.report().dropped == 0


@pytest.mark.promise("topic.all")
async def test_over_a_link_that_is_about_to_be_closed_nothing_is_published(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach = Routes.reach_listener

    async def let_go(self: Routes, listener: Listener) -> Peer | None:
        peer = await reach(self, listener)
        if peer is not None:
            p._sender.let_go(peer)  # as the other side wants it
        return peer

    async with buses(socket_dir, "p", "s") as (_, p, s), s.subscribe(TOPIC) as messages:
        monkeypatch.setattr(Routes, "reach_listener", let_go)
        numbers = Numbers(p)
        await numbers.publish(RAPID)
        await until(lambda: not way_of(p).busy)
        await p._sender.tell_home("+other")
        assert not way_of(p).moves
        assert not listeners(p)
        await numbers.all_read(messages)


@pytest.mark.promise("topic.all")
async def test_who_closes_while_a_listener_is_on_its_way_has_it_get_all(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with buses(socket_dir, "s") as (_, s), s.subscribe(TOPIC) as messages:
        late = Late(monkeypatch, Fence, s)
        async with Bus.open(f"unix://{socket_dir}/run/bus.sock", name="p") as p:
            numbers = Numbers(p)
            await begin_move(numbers)
            await until(lambda: len(late))
            await numbers.publish(100)
            asyncio.get_running_loop().call_later(0.1, late.release)
        await numbers.all_read(messages)


@pytest.mark.promise("topic.all")
async def test_a_cover_that_was_asked_for_before_a_listener_was_lost_is_none(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BusSettings(resume_timeout=0)
    async with (
        buses(socket_dir, "p", "s", "t", settings=settings) as (_, p, s, t),
        s.subscribe(TOPIC) as messages,
        t.subscribe(TOPIC),
    ):
        numbers = Numbers(p)
        await numbers.go_direct("s", "t")
        await numbers.all_read(messages)
        direct(p).close()
        home = link_to(p, "broker")
        # The broker's answer is on its way when the link to one of the listeners ends.
        renewing = asyncio.ensure_future(direct(p)._renew(home, (TOPIC,)))
        await asyncio.sleep(0)
        direct(p).lost(link_to(p, "s"), is_home=False)
        assert listeners(p) == {"t"}
        await renewing
        assert not is_covered(p)
        first = numbers.next
        await numbers.publish(3)
        await numbers.all_read(messages, first)


@pytest.mark.promise("topic.all")
@pytest.mark.parametrize("size", [0, 300_000, 3_000_000])
async def test_a_listener_on_its_way_gets_large_payloads(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    async with buses(socket_dir, "p", "s") as (_, p, s), s.subscribe(TOPIC) as messages:
        late = Late(monkeypatch, Fence, s)
        numbers = Numbers(p)
        await begin_move(numbers)
        await until(lambda: len(late))
        first = numbers.next
        count = 5 if size else 5000
        for number in range(count):
            await p.publish(TOPIC, (number, bytes(size)))
        late.release()
        with anyio.fail_after(10):
            for number in range(first):
                assert (await anext(messages)).value == number
            for number in range(count):
                assert (await anext(messages)).value == (number, bytes(size))
        assert p.report().dropped == 0
        room, limits = direct(p)._rooms[link_to(p, "s")], Limits()
        assert (room.small, room.large) == (limits.write_buffer, limits.shared), "given back"


@pytest.mark.promise("topic.all")
async def test_an_unused_way_is_given_up_once_its_listeners_have_read_all(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes by the broker afterwards would overtake it."""
    monkeypatch.setattr("agentbus.client.direct_topics._RENEW_EVERY", 0.01)
    async with buses(socket_dir, "p", "s") as (_, p, s), s.subscribe(TOPIC) as messages:
        numbers = Numbers(p)
        await numbers.go_direct("s")
        late = Late(monkeypatch, Fence, s)
        await until(lambda: len(late))
        assert listeners(p) == {"s"}
        await numbers.publish()
        late.release()
        await p._sender.tell_home("+other")
        assert listeners(p) == {"s"}
        await until(lambda: not listeners(p))
        await numbers.publish(3)
        await numbers.all_read(messages)


@pytest.mark.promise("topic.all")
async def test_a_listener_may_take_longer_to_move_than_a_request_may(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BusSettings(default_deadline=0.2)
    async with (
        buses(socket_dir, "p", "s", settings=settings) as (_, p, s),
        s.subscribe(TOPIC) as messages,
    ):
        late = Late(monkeypatch, Fence, s)
        numbers = Numbers(p)
        await begin_move(numbers)
        await until(lambda: len(late))
        await numbers.publish(10)
        await asyncio.sleep(0.4)
        late.release()
        await numbers.all_read(messages)


async def test_who_left_is_sent_nothing_from_the_moment_at_which_that_is_known(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have subscribed anew, and get what follows by the broker."""
    take, found = LinkControl.take, list[set[str]]()

    def taken(self: LinkControl, delivery: Delivery) -> None:
        take(self, delivery)
        if delivery.schema == payload_type(LeaveOut).schema:
            found.append(listeners(p))

    async with buses(socket_dir, "p", "s") as (_, p, s):
        monkeypatch.setattr(LinkControl, "take", taken)
        async with s.subscribe(TOPIC):
            await Numbers(p).go_direct("s")
        assert found == [set()]


@pytest.mark.promise("flow.bounded")
async def test_of_many_questions_at_once_a_broker_passes_a_bounded_number_on(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with buses(socket_dir, "p", "s") as (broker, p, s), s.subscribe(TOPIC):
        node, home = p._sender, link_to(p, "broker")
        questions = (
            (Listen, FindListeners(TOPIC), Audience),
            (Fence, PassBy(TOPIC, s.name), Passed),
        )
        for passed_on, question, answer in questions:
            late = Late(monkeypatch, passed_on, s)
            origin = node.program_origin(5)
            asked = [node.say(home, question, origin, answer) for _ in range(2 * MAX_WAYS)]
            for pending in asked[MAX_WAYS:]:
                assert await pending.wait() in (Audience(), Passed(0))
            await until(partial(late.holds, MAX_WAYS))
            late.release()
            for pending in asked[:MAX_WAYS]:
                assert await pending.wait() not in (Audience(), Passed(0))
        assert len(book_of(broker)) == 1


@pytest.mark.promise("topic.all")
async def test_who_comes_back_before_a_publisher_knows_that_it_left_gets_each_message_once(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with buses(socket_dir, "p", "s") as (broker, p, s):
        numbers = Numbers(p)
        async with s.subscribe(TOPIC):
            await numbers.go_direct("s")
            late = Late(monkeypatch, LeaveOut, p)
        assert len(late) == 1
        async with s.subscribe(TOPIC) as again:
            first = numbers.next
            await numbers.publish(RAPID)
            await numbers.all_read(again, first)
            first = numbers.next
            late.release()
            await numbers.publish(RAPID)
            await numbers.all_read(again, first)
            await numbers.go_direct("s")
        await until(lambda: not len(book_of(broker)))


LISTENER = """
import asyncio, sys
from agentbus import Bus

async def main():
    async with Bus.open(sys.argv[1], name="s") as bus, bus.subscribe("news"):
        print("ready", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.promise("ends.left-nothing")
async def test_a_listener_that_was_killed_leaves_no_socket(socket_dir: Path) -> None:
    async with buses(socket_dir, "p") as (_, p):
        folder = socket_dir / "run"
        command = [sys.executable, "-c", LISTENER, f"unix://{folder}/bus.sock"]
        async with await anyio.open_process(command, stderr=None) as child:
            assert child.stdout is not None
            await child.stdout.receive()
            await Numbers(p).go_direct("s")
            assert [path.name[:2] for path in folder.iterdir() if path.name != "bus.sock"] == ["s-"]
            child.kill()
        await until(lambda: [path.name for path in folder.iterdir()] == ["bus.sock"])
