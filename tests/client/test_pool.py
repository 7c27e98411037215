"""Handlers run in tasks that all agents of a process share."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator

import anyio
import pytest

from agentbus import Agent, Bus, BusSettings, Call, handler
from agentbus.errors import DeadlineExceeded, HandlerFailed, MailboxFull, RequestCancelled

from .agents import Count, Echo, Hold, Ping
from .conftest import Pair

pytestmark = pytest.mark.anyio


async def test_agents_that_have_nothing_to_do_cost_no_task() -> None:
    before = len(asyncio.all_tasks())
    async with Bus.open() as bus:
        for number in range(300):
            await bus.spawn(Echo(), name=f"echo{number}")
            assert (await bus.request(f"echo{number}", Ping(number=number))).number == number
        assert len(asyncio.all_tasks()) <= before + 2
    assert len(asyncio.all_tasks()) == before


async def test_handlers_of_several_agents_run_at_once() -> None:
    """More wait at once than tasks are kept; afterwards few are left."""
    before = len(asyncio.all_tasks())
    agents = [Echo() for _ in range(100)]
    async with Bus.open() as bus:
        async with anyio.create_task_group() as group:
            for number, agent in enumerate(agents):
                await bus.spawn(agent, name=f"echo{number}")
                group.start_soon(bus.request, f"echo{number}", Hold())
            with anyio.fail_after(5):
                for agent in agents:
                    await agent.held.wait()
            for agent in agents:
                agent.release.set()
        assert (await bus.request("echo7", Ping(number=1))).number == 1
        assert len(asyncio.all_tasks()) <= before + 70


class Two(Agent):
    """Handles two messages at once."""

    concurrency = 2

    def __init__(self) -> None:
        self.now = self.most = 0
        self.two = anyio.Event()
        self.go = anyio.Event()

    @handler
    async def hold(self, hold: Hold, call: Call) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == 2:
            self.two.set()
        await self.go.wait()
        self.now -= 1


async def test_concurrency_is_kept() -> None:
    two = Two()
    async with Bus.open() as bus, anyio.create_task_group() as group:
        await bus.spawn(two, name="two")
        for _ in range(10):
            group.start_soon(bus.request, "two", Hold())
        with anyio.fail_after(5):
            await two.two.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        two.go.set()
    assert two.most == 2


async def test_messages_that_come_while_an_agent_starts_wait_for_it() -> None:
    class Slow(Echo):
        async def started(self) -> None:
            self.seen.append(0)
            group.start_soon(bus.request, "slow", Ping(number=1))
            for _ in range(10):
                await asyncio.sleep(0)
            assert self.seen == [0]

    slow = Slow()
    async with Bus.open() as bus, anyio.create_task_group() as group:
        await bus.spawn(slow, name="slow")
    assert slow.seen == [0, 1]


def chain(bus: Bus, depth: int) -> list[Agent]:
    """Agents each of which asks the next one at once."""

    class Link(Agent):
        def __init__(self, following: str) -> None:
            self.following = following

        @handler
        async def ask(self, ping: Ping, call: Call) -> int:
            if not self.following:
                return 1
            deeper: int = await call.request(self.following, ping, returns=int)
            return deeper + 1

    return [Link(f"link{n + 1}" if n + 1 < depth else "") for n in range(depth)]


async def test_a_handler_that_awaits_nothing_is_done_at_once() -> None:
    async with Bus.open() as bus:
        await bus.spawn(Echo(), name="echo")
        await bus.request("echo", Ping(number=0))
        turned = False

        def turn() -> None:
            nonlocal turned
            turned = True

        asyncio.get_running_loop().call_soon(turn)
        await bus.request("echo", Ping(number=1))
        assert not turned


async def test_other_tasks_get_their_turn_all_the_same() -> None:
    async with Bus.open() as bus:
        await bus.spawn(Echo(), name="echo")
        others = asyncio.create_task(asyncio.sleep(0))
        for number in range(200):
            await bus.request("echo", Ping(number=number))
        assert others.done()


async def test_a_long_chain_does_not_fill_the_stack() -> None:
    async with Bus.open() as bus:
        for number, agent in enumerate(chain(bus, 60)):
            await bus.spawn(agent, name=f"link{number}")
        for _ in range(3):
            assert await bus.request("link0", Ping(number=1), returns=int) == 60


class Suspended(Agent):
    """Looks around before and after it waits."""

    def __init__(self) -> None:
        self.tasks: list[object] = []
        self.values: list[str] = []
        self.reached = anyio.Event()
        self.go = anyio.Event()
        self.cancelled = anyio.Event()

    @handler
    async def look(self, ping: Ping, call: Call) -> str:
        self.tasks.append(asyncio.current_task())
        token = VARIABLE.set("mine")
        try:
            with anyio.move_on_after(60) as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(anyio.sleep, 0)
                    self.reached.set()
                    await self.go.wait()
            assert not scope.cancelled_caught
            self.values.append(VARIABLE.get())
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            VARIABLE.reset(token)
        self.tasks.append(asyncio.current_task())
        return "done"


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="outer")


async def warm(bus: Bus, agent: Suspended) -> None:
    """Have the pool keep a task, so that the next handler begins at once."""
    await bus.spawn(Echo(), name="warm")
    await bus.request("warm", Ping(number=1))
    await bus.spawn(agent, name="looks")


async def test_a_handler_that_waits_goes_on_in_the_task_that_it_began_in() -> None:
    agent = Suspended()
    async with Bus.open() as bus:
        await warm(bus, agent)
        caller = asyncio.current_task()
        async with anyio.create_task_group() as group:
            group.start_soon(bus.request, "looks", Ping(number=1))
            await agent.reached.wait()
            assert asyncio.current_task() is caller
            assert VARIABLE.get() == "outer"
            agent.go.set()
    before, after = agent.tasks
    assert before is after
    assert before is not caller
    assert agent.values == ["mine"]


async def test_a_handler_that_began_at_once_can_be_cancelled_where_it_waits() -> None:
    agent = Suspended()
    async with Bus.open() as bus:
        await warm(bus, agent)
        with anyio.fail_after(5):
            with pytest.raises(DeadlineExceeded):
                await bus.request("looks", Ping(number=1), deadline=0.05)
            await agent.cancelled.wait()
            agent.go.set()
            assert await bus.request("looks", Ping(number=2)) == "done"


async def test_a_handler_can_be_cancelled_before_its_task_took_it_over() -> None:
    """In the very turn in which it began: the task that goes on with it has not woken up yet."""
    agent = Suspended()
    async with Bus.open() as bus:
        await warm(bus, agent)
        request = asyncio.ensure_future(bus.request("looks", Ping(number=1)))
        await asyncio.sleep(0)
        assert agent.reached.is_set()
        request.cancel()
        with anyio.fail_after(5), pytest.raises(asyncio.CancelledError):
            await request
        with anyio.fail_after(5):
            await agent.cancelled.wait()
            agent.go.set()
            assert await bus.request("looks", Ping(number=2)) == "done"


async def test_a_handler_that_ignores_its_end_holds_up_the_close_no_longer_than_allowed() -> None:
    class Stubborn(Agent):
        @handler
        async def stay(self, hold: Hold, call: Call) -> None:
            stays.append(asyncio.current_task())
            while not over:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    pass

    stays: list[asyncio.Task[object] | None] = []
    over = False
    settings = BusSettings(close_timeout=0.2)
    try:
        with anyio.fail_after(5):
            async with Bus.open(settings=settings) as bus:
                await bus.spawn(Stubborn(), name="stubborn")
                with pytest.raises(DeadlineExceeded):
                    await bus.request("stubborn", Hold(), deadline=0.01)
    finally:
        over = True
        for task in filter(None, stays):
            task.cancel()
            await asyncio.wait([task])


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_a_mailbox_holds_what_it_may_and_keeps_the_order(limit: int) -> None:
    echo = Echo()
    async with Bus.open(settings=BusSettings(mailbox=limit)) as bus:
        await bus.spawn(echo, name="echo")
        holding = asyncio.ensure_future(bus.request("echo", Hold()))
        await echo.held.wait()
        for turn in range(2):
            asked = [
                asyncio.ensure_future(bus.request("echo", Ping(number=n))) for n in range(limit + 2)
            ]
            await asyncio.sleep(0)
            assert bus.report().agents[0].waiting == limit
            if turn == 0:
                for request in asked:
                    request.cancel()
                await asyncio.gather(*asked, return_exceptions=True)
                echo.release.set()
                await holding
                echo.release = anyio.Event()
                echo.held = anyio.Event()
                holding = asyncio.ensure_future(bus.request("echo", Hold()))
                await echo.held.wait()
        echo.release.set()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes[limit:]] == [MailboxFull] * 2
    assert echo.seen == list(range(limit))


async def test_handlers_and_others_may_await_the_same_future() -> None:
    """As they do where one of them loads what all need; also if they begin in one turn."""
    loop = asyncio.get_running_loop()
    loaded: asyncio.Future[int] = loop.create_future()

    class Sharing(Agent):
        concurrency = 8

        @handler
        async def ping(self, ping: Ping, call: Call) -> int:
            return await loaded

    async def other() -> int:
        return await loaded

    async with Bus.open() as bus:
        await bus.spawn(Sharing(), name="sharing")
        for number in range(2):  # at first there are no tasks in which they could begin at once
            loaded = loop.create_future()
            asked = [
                asyncio.ensure_future(bus.request("sharing", Ping(number=n), returns=int))
                for n in range(4)
            ]
            others = [asyncio.ensure_future(other()) for _ in range(2)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            loaded.set_result(number)
            assert await asyncio.gather(*asked, *others) == [number] * 6


class Odd(BaseException):
    pass


@pytest.mark.promise("ends.reply-or-error", "autogen-6140")
@pytest.mark.parametrize("kind", [Odd, GeneratorExit, StopIteration, StopAsyncIteration])
@pytest.mark.parametrize("waits", [False, True])
async def test_any_exception_of_a_handler_is_its_callers_alone(
    pair: Pair, kind: type[BaseException], waits: bool
) -> None:
    """Also one that `except Exception` does not catch, as some test frameworks raise them."""

    class Picky(Agent):
        @handler
        async def ping(self, ping: Ping, call: Call) -> int:
            if waits:
                await asyncio.sleep(0)
            if ping.number == 1:
                raise kind("one")
            return ping.number

        @handler
        async def count(self, count: Count, call: Call) -> AsyncIterator[int]:
            yield 1
            raise kind("one")

    async with pair.open() as (host, bus):
        for number in range(3):
            await host.spawn(Picky(), name=f"picky{number}")
        for again in range(3):
            asked = [bus.request(f"picky{n}", Ping(number=n), returns=int) for n in range(3)]
            asked.append(bus.request("picky1", Ping(number=3), returns=int))
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert (again, answers[0], *answers[2:]) == (again, 0, 2, 3)
            assert isinstance(answers[1], HandlerFailed)
            assert kind.__name__ in str(answers[1])
            async with bus.stream("picky1", Count(upto=1)) as parts:
                with pytest.raises(HandlerFailed):
                    _ = [part async for part in parts]


@pytest.mark.parametrize("waits", [False, True])
async def test_a_handler_that_cancels_its_own_task_holds_up_nobody(pair: Pair, waits: bool) -> None:
    class Wild(Agent):
        @handler
        async def ping(self, ping: Ping, call: Call) -> int:
            if ping.number == 0:
                if waits:
                    await asyncio.sleep(0)
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(60)
            return ping.number

    async with pair.open() as (host, bus):
        await host.spawn(Wild(), name="wild")
        for _ in range(3):
            asked = [bus.request("wild", Ping(number=n), returns=int) for n in range(4)]
            with anyio.fail_after(5):
                first, *others = await asyncio.gather(*asked, return_exceptions=True)
            assert isinstance(first, RequestCancelled)
            assert others == [1, 2, 3]


THROWN_AWAY = """
import asyncio, gc
from agentbus import Agent, Bus, Call, handler

class Slow(Agent):
    @handler
    async def slow(self, number: int, call: Call) -> None:
        print("begins", number)
        try:
            await asyncio.sleep(60 if number else 0)
        finally:
            print("ends", number)

async def main():
    bus = await Bus.open().__aenter__()
    await bus.spawn(Slow(), name="slow")
    await bus.request("slow", 0)
    asyncio.get_running_loop().asked = [
        asyncio.ensure_future(bus.request("slow", number)) for number in (1, 2, 3)
    ]
    await asyncio.sleep(0)

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
loop.close()
del loop
gc.collect()
"""


def test_of_a_loop_that_is_thrown_away_no_message_is_begun() -> None:
    done = subprocess.run(
        [sys.executable, "-c", THROWN_AWAY], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["begins 0", "ends 0", "begins 1", "ends 1"]


async def test_an_agent_that_is_gone_is_held_by_no_task() -> None:
    async with Bus.open() as bus:
        echo = Echo()
        await bus.spawn(echo, name="echo")
        for number in range(3):
            await bus.request("echo", Ping(number=number))
        watch = weakref.ref(echo)
        del echo
        bus._sender.hosts.release("echo")
        gc.collect()
        assert watch() is None


async def test_a_handler_that_waits_is_gone_on_with_where_it_was() -> None:
    """Again and again in one task, also after some were interrupted there."""
    steps: list[int] = []

    class Slow(Agent):
        @handler
        async def ping(self, ping: Ping, call: Call) -> int:
            for _ in range(ping.number):
                await asyncio.sleep(0)
                steps.append(ping.number)
            return ping.number

    async with Bus.open() as bus:
        await bus.spawn(Slow(), name="slow")
        for number in (3, 0, 2, 1):
            assert await bus.request("slow", Ping(number=number), returns=int) == number
            with pytest.raises(DeadlineExceeded):
                await bus.request("slow", Ping(number=10**9), returns=int, deadline=0.01)
            steps = [step for step in steps if step < 10**9]
        assert steps == [3, 3, 3, 2, 2, 1]
