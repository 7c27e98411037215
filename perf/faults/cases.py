"""One fault each: a bus of its own, an asker behind the fault, and a witness beside it.

The witness asks the same process at the same time over a link of its own, and must not notice.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from agentbus import Bus, BusSettings, Keys, Limits, Subscription
from agentbus.daemon import start_broker
from agentbus.errors import AgentbusError
from agentbus.testing import Direction, Fault, FaultKind, FaultProxy, fault_proxy
from agentbus.transport.zmq_keys import create_keys, load_keys

from .work import DEADLINE_S, SLACK_S, Clerk, Outcome, check_lane, soon, work

__all__ = [
    "HEALTHY",
    "LOOPBACK",
    "REORDER",
    "SETTINGS",
    "STARVED_S",
    "WAYS",
    "Case",
    "Happening",
    "load_both_keys",
    "new_keys",
    "reordered",
    "run_case",
]

Happening = Callable[["Case", Path, Outcome], Awaitable[None]]
"""Lets one case happen, with a folder for its files, and notes what came of it."""

LOOPBACK = "ab://127.0.0.1:0"
SETTINGS = BusSettings(
    connect_timeout=0.5,
    close_timeout=1.0,
    default_deadline=DEADLINE_S,
    limits=Limits(write_buffer=1024 * 1024),
)
HEALTHY = replace(SETTINGS, connect_timeout=5.0)
"""Of those beside the fault, to whom nothing but a busy machine happens."""
JOIN_S = SETTINGS.connect_timeout + DEADLINE_S
"""How long joining may take: the connection, and a question to the process there."""
CLOSE_S = 6.0
"""How long a bus may take to close whatever happens: its three bounded steps, twice."""
REORDER = "reorder"
_OVERTAKEN_S = 0.2
STARVED_S = 0.2
"""For how long this process was kept from running where being late says nothing of it."""
_TRIES = 5
_TICK_S = 0.02
_CASE_S = 30.0
_CLERK, _STEWARD = "clerk", "steward"


@dataclass(frozen=True, slots=True)
class Case:
    """One fault over one transport."""

    way: str
    kind: str
    """As the report names it."""
    fault: Fault
    seed: int
    early: bool = False
    """It is there before the link is made."""

    @property
    def is_unreadable(self) -> bool:
        """Whether bytes may say something else than was said, and nobody can tell.

        A Unix socket is a piece of one host's memory: nothing in it changes bytes, and nothing in
        the protocol looks whether something did. Over tcp CURVE does.
        """
        return self.way == "unix" and self.fault.kind is FaultKind.CORRUPT


@dataclass(slots=True)
class Place:
    """Where a case happens."""

    home: Bus
    proxy: FaultProxy
    """On it is the fault."""
    clerk: Clerk
    join: Callable[[], Bus]
    """Makes the asker's bus."""
    witness: Bus


def new_keys(folder: Path) -> tuple[Keys, Keys]:
    """Make keys for who listens and for who joins."""
    for name in ("server", "client"):
        create_keys(folder, name)
    return load_both_keys(folder)


def load_both_keys(folder: Path) -> tuple[Keys, Keys]:
    """Return the keys that `new_keys` made."""
    server = load_keys(folder / "server.key_secret")
    client = load_keys(folder / "client.key_secret", server=folder / "server.key")
    return replace(server, authorized={"client": client.public}), client


async def run_case(case: Case, happening: Happening) -> Outcome:
    """Let a case happen, and return what came of it.

    Where something was late, and this process did not run for a while, it is done again.
    """
    for repeats in range(_TRIES):
        lags = [0.0]
        watching = asyncio.get_running_loop().create_task(_watch(lags))
        outcome = await _try_case(case, happening)
        watching.cancel()
        outcome.repeats = repeats
        if outcome.violations or not outcome.untimely or max(lags) < STARVED_S:
            break
    return outcome


async def _watch(lags: list[float]) -> None:
    """Note how late this task is each time."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _TICK_S
        await asyncio.sleep(_TICK_S)
        lags.append(loop.time() - due)


async def _try_case(case: Case, happening: Happening) -> Outcome:
    outcome = Outcome()
    with TemporaryDirectory(prefix="perf-") as folder:
        try:
            async with asyncio.timeout(_CASE_S):
                await happening(case, Path(folder), outcome)
        except (AgentbusError, TimeoutError) as error:  # of those beside the fault
            outcome.untimely.append(f"the case ended with {type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - which it is, is the finding
            outcome.violations.append(f"the case ended with {type(error).__name__}: {error}")
        outcome.violations += [f"{name} is left" for name in _sockets(Path(folder))]
    return outcome


def _sockets(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_socket()]


async def _at_a_distance(case: Case, outcome: Outcome, place: Place) -> None:
    """Ask over the faulty link, beside the witness; then look at what is left."""
    published: list[int] = []
    watched = Outcome()
    label = "asker"
    async with place.home.subscribe(f"faults.{label}") as topic, asyncio.TaskGroup() as group:
        listening = group.create_task(_listen(topic, published))
        both = (
            _ask(case, place, label, outcome),
            work(place.witness, _STEWARD, "witness", watched),
        )
        await asyncio.gather(*both)
        listening.cancel()
    _add_witness(outcome, watched)
    outcome.happened = any(connection.happened for connection in place.proxy.connections)
    place.proxy.cut()
    if not await soon(lambda: place.home.report().under_way == 0):
        outcome.violations.append(f"{place.home.report().under_way} requests are left at home")
    if not case.is_unreadable:
        check_lane("items", place.clerk.handled.get(label, []), outcome)
        check_lane("published messages", published, outcome)


def _add_witness(outcome: Outcome, watched: Outcome) -> None:
    """Note what the witness noticed, which is nothing."""
    watched.untimely += [f"it got {error}" for error in watched.errors]
    outcome.violations += [f"the witness: {line}" for line in watched.violations]
    outcome.untimely += [f"the witness: {line}" for line in watched.untimely]


async def _listen(topic: Subscription, into: list[int]) -> None:
    async for message in topic:
        into.append(message.value)  # noqa: PERF401 - it is cancelled, and keeps what came


async def _ask(case: Case, place: Place, label: str, outcome: Outcome) -> None:
    """Join over the faulty link and work; joining may fail, in time and with a typed error."""
    loop = asyncio.get_running_loop()
    if case.early:
        place.proxy.inject(case.fault)
    bus = place.join()
    started = loop.time()
    try:
        await bus.__aenter__()
    except AgentbusError as error:
        outcome.errors[type(error).__name__] += 1
        if loop.time() - started > JOIN_S + CLOSE_S + SLACK_S:
            outcome.untimely.append(f"joining took {loop.time() - started:.2f} s")
        return
    if not case.early:
        place.proxy.inject(case.fault)
    is_heavy = case.fault.kind is FaultKind.STALL  # so that buffers fill
    await work(bus, _CLERK, label, outcome, heavy=is_heavy, compare=not case.is_unreadable)
    left = bus.report().under_way
    if left:
        outcome.violations.append(f"{left} requests are left at the asker")
    started = loop.time()
    await bus.__aexit__(None, None, None)
    if loop.time() - started > CLOSE_S + SLACK_S:
        outcome.untimely.append(f"closing took {loop.time() - started:.2f} s")


@asynccontextmanager
async def _home(listen: str, keys: Keys | None) -> AsyncGenerator[Bus, None]:
    async with Bus.open(listen=listen, name="home", settings=HEALTHY, keys=keys) as home:
        await home.spawn(Clerk(), name=_STEWARD)
        yield home


@asynccontextmanager
async def _unix(case: Case, folder: Path) -> AsyncGenerator[Place, None]:
    path, clerk = f"{folder}/run/bus.sock", Clerk()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        home = await enter(_home(path, None))
        await home.spawn(clerk, name=_CLERK)
        proxy = await enter(fault_proxy(path))
        witness = await enter(Bus.open(f"unix://{path}", name="witness", settings=HEALTHY))
        yield Place(home, proxy, clerk, lambda: _joining(proxy.url, None), witness)


def _joining(url: str, keys: Keys | None) -> Bus:
    return Bus.open(url, name="asker", settings=SETTINGS, keys=keys)


@asynccontextmanager
async def _tcp(case: Case, folder: Path) -> AsyncGenerator[Place, None]:
    listening, joining = new_keys(folder)
    clerk = Clerk()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        home = await enter(_home(LOOPBACK, listening))
        await home.spawn(clerk, name=_CLERK)
        url = home.listens_at
        proxy = await enter(fault_proxy(url))
        witness = await enter(Bus.open(url, name="witness", settings=HEALTHY, keys=joining))
        yield Place(home, proxy, clerk, lambda: _joining(proxy.url, joining), witness)


@asynccontextmanager
async def _relayed(case: Case, folder: Path) -> AsyncGenerator[Place, None]:
    """By way of a broker; the fault is on the asker's leg or on the agent's."""
    listening, joining = new_keys(folder)
    clerk = Clerk()
    on_agents_leg = case.kind != REORDER and random.Random(case.seed).random() < 0.5
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        home = await enter(_home(LOOPBACK, listening))
        await start_broker(home)
        url = home.listens_at
        proxy = await enter(fault_proxy(url))
        here, there = (url, proxy.url) if on_agents_leg else (proxy.url, url)
        host = await enter(Bus.open(there, name="host", settings=HEALTHY, keys=joining))
        await host.spawn(clerk, name=_CLERK)
        witness = await enter(Bus.open(url, name="witness", settings=HEALTHY, keys=joining))
        yield Place(home, proxy, clerk, lambda: _joining(here, joining), witness)


_PLACES = {"unix": _unix, "tcp": _tcp, "relayed": _relayed}


async def _faulty(case: Case, folder: Path, outcome: Outcome) -> None:
    async with _PLACES[case.way](case, folder) as place:
        await _at_a_distance(case, outcome, place)


async def reordered(case: Case, folder: Path, outcome: Outcome) -> None:
    """What goes over one link is overtaken by what goes over another; on each it is in order."""
    fast = Outcome()
    async with _PLACES[case.way](case, folder) as place:
        async with place.join() as asker:
            await asker.request(_CLERK, "asker", returns=list[int])  # the way is known
            place.proxy.inject(Fault(FaultKind.DELAY, seconds=_OVERTAKEN_S))
            (connection,) = place.proxy.connections
            passed = connection.passed(Direction.TO_LISTENER)
            async with asyncio.TaskGroup() as group:
                group.create_task(work(asker, _CLERK, "asker", outcome))
                if await soon(lambda: connection.passed(Direction.TO_LISTENER) > passed):
                    await work(place.witness, _CLERK, "witness", fast)
        clerk = place.clerk
        outcome.happened = True
        _add_witness(outcome, fast)
        outcome.untimely += [f"one link is slow: {error}" for error in outcome.errors]
        if clerk.order != sorted(clerk.order, reverse=True):  # all the witness's came first
            outcome.untimely.append(f"nothing was overtaken: {clerk.order}")
        for label, numbers in clerk.handled.items():
            check_lane(f"items of the {label}", numbers, outcome)


class _HinderedClerk(Clerk):
    """A clerk to whom the fault happens, where no link is that it could happen to."""

    concurrency = 1

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self._fault = fault
        self._before = fault.after_bytes % 6
        """So many messages are handled first."""
        self._seen = 0
        self.reached = asyncio.Event()

    async def hindered(self) -> None:
        self._seen += 1
        if self._seen <= self._before:
            return
        self.reached.set()
        match self._fault.kind:
            case FaultKind.DELAY:
                await asyncio.sleep(self._fault.seconds)
            case FaultKind.HALF_OPEN:
                await asyncio.Event().wait()
            case FaultKind.STALL:
                self._before = 1000
                await asyncio.sleep(self._fault.seconds)
            case FaultKind.CORRUPT:
                raise ValueError("as if corrupted")
            case FaultKind.CUT:
                await asyncio.sleep(0)


async def _inproc(case: Case, folder: Path, outcome: Outcome) -> None:
    """In one process the fault happens to the agent: it is slow, silent, broken, or it goes."""
    clerk, watched = _HinderedClerk(case.fault), Outcome()
    settings = replace(SETTINGS, mailbox=6)
    bus = Bus.open(settings=settings)
    await bus.__aenter__()
    await bus.spawn(clerk, name=_CLERK)
    await bus.spawn(Clerk(), name=_STEWARD)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(work(bus, _CLERK, "asker", outcome))
        if case.fault.kind is FaultKind.CUT:
            await clerk.reached.wait()
        else:
            await work(bus, _STEWARD, "witness", watched)
            await asking
            if not await soon(lambda: bus.report().under_way == 0):
                outcome.violations.append(f"{bus.report().under_way} requests are left")
        await bus.__aexit__(None, None, None)
    outcome.happened = clerk.reached.is_set()
    del watched.errors["MailboxFull"]
    _add_witness(outcome, watched)
    check_lane("items", clerk.handled.get("asker", []), outcome)


WAYS: Mapping[str, Happening] = {
    "inproc": _inproc,
    "unix": _faulty,
    "tcp": _faulty,
    "relayed": _faulty,
}
"""How a case's asker reaches its clerk."""
