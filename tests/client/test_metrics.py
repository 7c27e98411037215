"""What a process counts of its part in a bus."""

from __future__ import annotations

import anyio
import pytest
from pydantic import create_model

from agentbus import Bus, BusSettings
from agentbus.errors import DeadlineExceeded, HandlerFailed, InvalidMessage, MailboxFull, NoHandler
from agentbus.telemetry import TIMES, AgentReport

from .agents import Boom, Count, Echo, Hold, Ping
from .conftest import Pair

pytestmark = pytest.mark.anyio


def echo_of(bus: Bus) -> AgentReport:
    (report,) = bus.report().agents
    return report


async def test_requests_by_outcome(pair: Pair) -> None:
    async with pair.open() as (host, asker):
        await host.spawn(Echo(), name="echo")
        before = asker.report().sent
        for number in range(TIMES):
            await asker.request("echo", Ping(number=number))
        async with asker.stream("echo", Count(upto=2)) as parts:
            assert [part async for part in parts] == [0, 1]
        with pytest.raises(HandlerFailed):
            await asker.request("echo", Boom(text="no"))
        with pytest.raises(NoHandler):
            await asker.request("echo", [1])
        report = echo_of(host)
        assert report.name == "echo"
        assert report.replies == report.queue.count == TIMES + 1
        assert report.failures == {"handler_failed": 1, "no_handler": 1}
        # Behind a broker the first one asks where the agent is.
        assert asker.report().sent - before == TIMES + 3 + (pair.kind == "relayed")
        assert asker.report().failures["handler_failed"] == 1


async def test_what_is_refused_is_counted(pair: Pair) -> None:
    async with pair.open(BusSettings(mailbox=1)) as (host, asker):
        echo = Echo()
        await host.spawn(echo, name="echo")

        async def hold() -> None:
            await asker.request("echo", Hold())

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(hold)
                await echo.held.wait()
                group.start_soon(asker.request, "echo", Ping(number=1))
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(MailboxFull):
                    await asker.request("echo", Ping(number=2))
                assert echo_of(host).waiting == 1
                assert echo_of(host).failures == {"mailbox_full": 1}
                echo.release.set()
        assert (echo_of(host).waiting, echo_of(host).replies) == (0, 2)


async def test_a_payload_that_does_not_fit_is_counted(pair: Pair) -> None:
    other = create_model("Ping", number=(str, ...))
    async with pair.open() as (host, asker):
        await host.spawn(Echo(), name="echo")
        with pytest.raises(InvalidMessage):
            await asker.request("echo", other(number="many"))
        assert echo_of(host).failures == {"invalid_message": 1}


async def test_deadlines_that_pass(pair: Pair) -> None:
    async with pair.open() as (host, asker):
        echo = Echo()
        await host.spawn(echo, name="echo")
        with pytest.raises(DeadlineExceeded):
            await asker.request("echo", Hold(), deadline=0.2)
        with anyio.fail_after(5):
            await echo.cancelled.wait()
        # Where there are two processes, whichever notices first tells the other.
        assert asker.report().missed_deadlines + host.report().missed_deadlines > 0
        assert asker.report().failures["deadline_exceeded"] == 1


async def test_links_and_their_bytes(pair: Pair) -> None:
    async with pair.open() as (host, asker):
        await host.spawn(Echo(), name="echo")
        await asker.request("echo", Ping(number=1, text="x" * 1000))
        if pair.kind == "inproc":
            assert host.report().links == ()
        if pair.kind in ("inproc", "relayed"):
            return
        (there,), (here,) = host.report().links, asker.report().links
        assert (there.peer, here.peer) == (asker.name, host.name)
        assert there.received_bytes == here.sent_bytes > 1000
        assert here.received_bytes == there.sent_bytes > 0


async def test_messages_published_and_dropped() -> None:
    async with Bus.open(settings=BusSettings(subscription=2)) as bus:
        async with bus.subscribe("news") as messages:
            for number in range(5):
                await bus.publish("news", number)
            assert (await anext(messages)).value == 3
            assert (bus.report().published, bus.report().dropped) == (5, 3)
        assert bus.report().dropped == 3
