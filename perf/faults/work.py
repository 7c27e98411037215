"""What is asked while something goes wrong, and what must hold of it, whatever goes wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from agentbus import Agent, Bus, Call, handler
from agentbus.errors import AgentbusError

__all__ = ["DEADLINE_S", "SLACK_S", "Check", "Clerk", "Outcome", "check_lane", "soon", "work"]

DEADLINE_S = 0.8
"""Of every request."""
SLACK_S = 0.5
"""How much later than its deadline a request may end: what a busy machine adds."""
HANG_S = 10.0
REQUESTS = 8
PARTS = 12
FED = 6
PUBLISHED = 6
_PADDING = "x" * 300
_HEAVY = "x" * 200_000
"""Eight of these are more than a Unix socket, a tcp connection and a link hold together."""


class Wrong(Exception):
    """An answer is not the answer to what was asked."""


@dataclass(frozen=True, slots=True)
class Item:
    """Number so-and-so of one asker."""

    label: str
    number: int
    padding: str


@dataclass(frozen=True, slots=True)
class Count:
    """Ask for the numbers up to one."""

    upto: int


@dataclass(frozen=True, slots=True)
class Add:
    """Ask for the sum of what is fed."""

    label: str


@dataclass(slots=True)
class Outcome:
    """What came of the requests of one asker."""

    happened: bool = False
    """Whether the fault came to be: it waits for bytes, or messages, that may never come."""
    replies: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Requests that ended with a typed error, by its class."""
    violations: list[str] = field(default_factory=list)
    untimely: list[str] = field(default_factory=list)
    """What must not be, either, but may be the machine's doing where it was too busy to go on."""
    repeats: int = 0
    """How often that was so, and all was done again."""
    late_s: float = 0.0
    """How much after its deadline the latest request ended."""


class Clerk(Agent):
    """You answer with what you get, and note it."""

    concurrency = 8

    def __init__(self) -> None:
        self.handled: dict[str, list[int]] = {}
        self.order: list[str] = []
        """Whose items were taken."""

    async def hindered(self) -> None:
        """Comes before each message; nothing hinders this one."""

    @handler
    async def take(self, item: Item, call: Call) -> Item:
        """Return the item."""
        self.handled.setdefault(item.label, []).append(item.number)
        self.order.append(item.label)
        await self.hindered()
        return item

    @handler
    async def count(self, ask: Count, call: Call) -> AsyncIterator[int]:
        """Count."""
        await self.hindered()
        for number in range(ask.upto):
            yield number

    @handler
    async def add(self, ask: Add, call: Call) -> int:
        """Add what is fed."""
        await self.hindered()
        return sum([number async for number in call.feed(int)])

    @handler
    async def report(self, label: str, call: Call) -> list[int]:
        """Say which items of an asker were taken."""
        return self.handled.get(label, [])


async def work(
    bus: Bus,
    target: str,
    label: str,
    outcome: Outcome,
    *,
    heavy: bool = False,
    compare: bool = True,
) -> None:
    """Ask for everything at once, publish, and note in `outcome` how it ends.

    Args:
        bus: the asker's.
        target: a clerk.
        label: the asker's name, by which the clerk notes what it took.
        outcome: gets what comes of it.
        heavy: send so much that what lies between the two cannot hold it.
        compare: answers must be those to what was asked.
    """
    padding = _HEAVY if heavy else _PADDING

    async def ask(number: int) -> None:
        item = Item(label, number, padding)
        answer = await bus.request(target, item, returns=Item, deadline=DEADLINE_S)
        if answer != item:
            raise Wrong(f"item {number} was answered with item {answer.number}")

    async def timed(name: str, job: Awaitable[None]) -> None:
        started = loop.time()
        await _note(name, job, outcome, compare)
        late = loop.time() - started - DEADLINE_S
        outcome.late_s = max(outcome.late_s, late)
        if late > SLACK_S:
            outcome.untimely.append(f"{name} ended {late:.2f} s after its deadline")

    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        for number in range(REQUESTS):
            group.create_task(timed(f"request {number}", ask(number)))
        group.create_task(timed("the stream", _read(bus, target)))
        group.create_task(timed("the feed", _feed(bus, target, label)))
        group.create_task(timed("publishing", _publish(bus, label)))


async def _note(name: str, job: Awaitable[None], outcome: Outcome, compare: bool) -> None:
    try:
        async with asyncio.timeout(HANG_S):
            await job
    except AgentbusError as error:
        outcome.errors[type(error).__name__] += 1
    except Wrong as error:
        if compare:
            outcome.violations.append(f"{name}: {error}")
        else:
            outcome.replies += 1
    except Exception as error:  # noqa: BLE001 - which it is, is the finding
        outcome.violations.append(f"{name} ended with {type(error).__name__}: {error}")
    else:
        outcome.replies += 1


async def _read(bus: Bus, target: str) -> None:
    got: list[int] = []
    try:
        async with bus.stream(target, Count(PARTS), deadline=DEADLINE_S) as parts:
            async for part in parts:
                got.append(part)  # noqa: PERF401 - what came before an error is looked at, too
        if len(got) != PARTS:
            raise Wrong(f"the stream ended in order after {len(got)} of {PARTS} parts")
    finally:
        if got != list(range(len(got))):
            raise Wrong(f"parts came as {got}")


async def _feed(bus: Bus, target: str, label: str) -> None:
    async with bus.stream(target, Add(label), deadline=DEADLINE_S) as parts:
        for number in range(FED):
            await parts.send(number)
        parts.finish()
        async for _ in parts:
            pass
        if parts.reply.value != sum(range(FED)):
            raise Wrong(f"the feed came to {parts.reply.value}")


async def _publish(bus: Bus, label: str) -> None:
    for number in range(PUBLISHED):
        await bus.publish(f"faults.{label}", number)


def check_lane(what: str, numbers: list[int], outcome: Outcome) -> None:
    """Note it if one sender's messages came twice, or not in the order of sending."""
    if len(set(numbers)) < len(numbers):
        outcome.violations.append(f"{what} came twice: {numbers}")
    elif numbers != sorted(numbers):
        outcome.violations.append(f"{what} came in another order: {numbers}")


Check = Callable[[], bool]


async def soon(check: Check, seconds: float = 5.0) -> bool:
    """Wait until something holds; say whether it came to hold in time."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    # Nothing tells when the other end of a link has noticed.
    while not check() and loop.time() < until:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return check()
