"""Suite `scale`: many agents in one process: the memory that each takes, and what finding one costs.

Each agent has handled a message and holds state before anything is measured.
"""

from __future__ import annotations

import gc
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter_ns

from agentbus import Agent, Bus, Call, handler

from ..report import Row, compare
from ..rounds import interleave
from ..suite import Progress, Suite
from ..workloads import NS_PER_S, NS_PER_US, PING, REQUEST_TIMEOUT_S, Load, Ping, resident_mib, tail

__all__ = ["SUITE", "Crowd", "contend", "measure"]

SIZES = (10, 1_000, 100_000)
QUICK = Load(rounds=5, warmup_s=0.4, latency_s=0.6, rate_s=0.0)
FULL = Load(rounds=11, warmup_s=2.0, latency_s=2.0, rate_s=0.0)
SEED = 7


class Notes(Agent):
    """Notes how many messages came, and what the last one said."""

    def __init__(self) -> None:
        self._count = 0
        self._last = ""

    @handler
    async def note(self, ping: Ping, call: Call) -> Ping:
        """Note the message and return it."""
        self._count += 1
        self._last = ping.body
        return ping


class Keeper(Agent):
    """Keeps the last message of each conversation: what it replaces has to be taken apart, from
    memory that nobody has touched for long."""

    def __init__(self) -> None:
        self._last: dict[str, Ping] = {}

    @handler
    async def keep(self, ping: Ping, call: Call) -> Ping:
        """Keep the message and return it."""
        self._last[ping.conversation] = ping
        return ping


KINDS: Mapping[str, type[Agent]] = {"notes": Notes, "keepers": Keeper}


@dataclass(frozen=True, slots=True)
class RandomCalls:
    """Requests to agents chosen at random. Choosing is not timed: who asks has the name in its hand."""

    bus: Bus
    names: Sequence[str]
    choose: Callable[[Sequence[str]], str]

    async def latencies(self, seconds: float) -> list[int]:
        """Send one request after another for `seconds`; return each round trip in ns."""
        taken: list[int] = []
        end = perf_counter_ns() + int(seconds * NS_PER_S)
        while True:
            target = self.choose(self.names)
            before = perf_counter_ns()
            if before >= end:
                return taken
            await self.bus.request(target, PING, deadline=REQUEST_TIMEOUT_S)
            taken.append(perf_counter_ns() - before)


@dataclass(frozen=True, slots=True)
class Crowd:
    """Many agents, and what it took to start them."""

    calls: RandomCalls
    rss_growth_mib: float
    spawn_us: float


@asynccontextmanager
async def contend(crowd: str) -> AsyncGenerator[Crowd, None]:
    """Start agents and have each handle a message; `crowd` is their kind and number: `notes_10`."""
    kind, _, size = crowd.partition("_")
    names = [f"{kind}-{number}" for number in range(int(size))]
    async with Bus.open() as bus:
        gc.collect()
        before, start = resident_mib(), perf_counter_ns()
        for name in names:
            await bus.spawn(KINDS[kind], name=name)
        taken = perf_counter_ns() - start
        for name in names:
            await bus.request(name, PING, deadline=REQUEST_TIMEOUT_S)
        gc.collect()
        growth = resident_mib() - before
        calls = RandomCalls(bus, names, random.Random(SEED).choice)
        yield Crowd(calls, growth, taken / len(names) / NS_PER_US)


async def measure(crowd: Crowd, load: Load) -> dict[str, float]:
    """Drive one round: requests to agents chosen at random, one at a time."""
    taken = await crowd.calls.latencies(load.latency_s)
    return {
        "rss_growth_mib": crowd.rss_growth_mib,
        "spawn_us": crowd.spawn_us,
        **tail("", taken),
    }


async def run(peers: Sequence[str], *, quick: bool, progress: Progress) -> list[Row]:
    """Measure all kinds and sizes in turn; the peer of each is the smallest of its kind."""
    cases = [f"{kind}_{size}" for kind in KINDS for size in SIZES]
    results = await interleave(
        {case: f"perf.micro.scale:contend:{case}" for case in cases},
        QUICK if quick else FULL,
        progress,
        "perf.micro.scale:measure",
    )
    rows: list[Row] = []
    for kind in KINDS:
        smallest = f"{kind}_{SIZES[0]}"
        reference = {key: value for key, value in results[smallest].items() if key.startswith("p")}
        rows += compare(SUITE.name, smallest, results[smallest], {})
        for size in SIZES[1:]:
            case = f"{kind}_{size}"
            rows += compare(SUITE.name, case, results[case], {smallest: reference})
    return rows


SUITE = Suite(
    name="scale",
    peers=(),
    method=(
        "closed loop, one request at a time to agents of this process chosen uniformly at random, "
        "which is not timed; notes keep a count and a text, keepers the last message itself; "
        f"the peer is the same with {SIZES[0]} agents; rss_growth_mib is what "
        "starting them and one message each added, spawn_us what starting one took; sizes take turns in rounds, medians over them."
    ),
    run=run,
)
