"""What is measured: the 1 KiB message, the load, and how one round of one contender is timed.

Interleaving rounds is `rounds`' business, comparing their results `report`'s.
"""

from __future__ import annotations

import asyncio
import gc
import math
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Protocol

from pydantic import BaseModel

from .cores import can_pin, cpu_seconds, one_core
from .ticker import can_tick, ticking

__all__ = [
    "FULL",
    "MAX_OPEN_REQ_S",
    "MAX_OUTSTANDING",
    "PAYLOAD_BYTES",
    "PING",
    "QUICK",
    "REQUEST_TIMEOUT_S",
    "Calls",
    "Contender",
    "Load",
    "Ping",
    "Schedule",
    "WrongReply",
    "checked_calls",
    "make_ping",
    "measure",
    "medians",
    "percentile",
    "resident_mib",
    "settle_gc",
    "tail",
]

PAYLOAD_BYTES = 1024
REQUEST_TIMEOUT_S = 5.0
"""The deadline of each request, for contenders that have deadlines."""
NS_PER_S = 1_000_000_000
NS_PER_US = 1_000


class WrongReply(Exception):
    """A contender answered with something else than what it was sent."""


class Ping(BaseModel):
    """An ordinary message of an agent: mutable, as pydantic models are unless told otherwise."""

    conversation: str
    sequence: int
    confidence: float
    tags: list[str]
    body: str


def make_ping() -> Ping:
    """Return a message whose JSON is exactly `PAYLOAD_BYTES` long."""
    ping = Ping(
        conversation="tides-and-moons",
        sequence=42,
        confidence=0.75,
        tags=["research", "draft", "urgent"],
        body="",
    )
    sentence = "The tide rises because the moon pulls the near side of the sea. "
    room = PAYLOAD_BYTES - len(ping.model_dump_json())
    return ping.model_copy(update={"body": (sentence * (room // len(sentence) + 1))[:room]})


PING = make_ping()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How long and how hard each contender is driven. Times in seconds, per round."""

    rounds: int
    warmup_s: float
    latency_s: float
    rate_s: float
    open_s: float = 0.0
    """How long requests arrive at a fixed rate; 0 leaves that out."""
    in_flight: int = 64
    one_core: bool = False
    """Also time single requests with all processes of the contender on one core."""


QUICK = Load(rounds=5, warmup_s=0.3, latency_s=0.25, rate_s=0.2)
FULL = Load(rounds=11, warmup_s=2.0, latency_s=1.5, rate_s=1.5, open_s=1.5)

OPEN_SHARE = 0.5
"""The fixed rate of arrivals, as a share of the replies a second of the same round."""
MAX_OPEN_REQ_S = 20_000.0
"""The fastest arrivals that the driver paces well: each wakes its loop, which costs some µs."""
MAX_OUTSTANDING = 512
"""Requests of one contender that are under way at most; what is due beyond them starts late, and
its lateness counts."""


class Contender(Protocol):
    """One system under load, opened and ready to answer."""

    async def latencies(self, seconds: float) -> list[int]:
        """Send one request after another for `seconds`; return each round trip in ns."""
        ...

    async def rate(self, seconds: float, in_flight: int) -> float:
        """Keep `in_flight` requests going for `seconds`; return replies a second."""
        ...

    async def open_loop(self, seconds: float, per_second: float) -> list[int]:
        """Send `per_second` requests, evenly spaced and whether or not replies come.

        Returns for each the ns from the moment when it was due until its reply.
        """
        ...


class Schedule:
    """Moments at even distances, beginning now: says what is due, by number."""

    def __init__(self, seconds: float, per_second: float) -> None:
        self._start = perf_counter_ns()
        self.gap_ns = int(NS_PER_S / per_second)
        self._total = max(1, int(seconds * per_second))
        self._taken = 0

    @property
    def over(self) -> bool:
        """Whether all moments have been taken."""
        return self._taken == self._total

    def take_due(self, at_most: int) -> list[int]:
        """Return the moments that have come and were not taken, in ns of `perf_counter_ns`."""
        passed = (perf_counter_ns() - self._start) // self.gap_ns + 1
        first, last = self._taken, min(passed, self._total, self._taken + at_most)
        self._taken = last
        return [self._start + number * self.gap_ns for number in range(first, last)]


Request = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Calls:
    """The contender whose requests are coroutines."""

    request: Request

    async def latencies(self, seconds: float) -> list[int]:
        """Await one request after another."""
        taken: list[int] = []
        request, end = self.request, perf_counter_ns() + int(seconds * NS_PER_S)
        while True:
            before = perf_counter_ns()
            if before >= end:
                return taken
            await request()
            taken.append(perf_counter_ns() - before)

    async def rate(self, seconds: float, in_flight: int) -> float:
        """Run `in_flight` tasks, each of which awaits one request after another."""
        start = perf_counter_ns()
        end = start + int(seconds * NS_PER_S)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._repeat_until(end)) for _ in range(in_flight)]
        return sum(task.result() for task in tasks) * NS_PER_S / (perf_counter_ns() - start)

    async def open_loop(self, seconds: float, per_second: float) -> list[int]:
        """Start a task for each request when it is due."""
        taken: list[int] = []
        schedule, started = Schedule(seconds, per_second), 0
        with ticking(schedule.gap_ns) as ticker:
            async with asyncio.TaskGroup() as group:
                while not schedule.over:
                    await ticker.wait()
                    for due in schedule.take_due(MAX_OUTSTANDING - started + len(taken)):
                        group.create_task(self._request_due(due, taken))
                        started += 1
        return taken

    async def _request_due(self, due: int, taken: list[int]) -> None:
        await self.request()
        taken.append(perf_counter_ns() - due)

    async def _repeat_until(self, end: int) -> int:
        request, done = self.request, 0
        while perf_counter_ns() < end:
            await request()
            done += 1
        return done


async def checked_calls(request: Request) -> Calls:
    """Make one request, and return the contender if the reply is `PING` again.

    Raises:
        WrongReply: it is not.
    """
    reply = await request()
    if reply != PING:
        raise WrongReply(f"sent a Ping, got {type(reply).__name__} {reply!r:.80}")
    return Calls(request)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` (0 to 1) of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


async def measure(contender: Contender, load: Load) -> dict[str, float]:
    """Drive one round: latency at concurrency 1, replies a second with many in flight, and what
    else the load asks for."""
    before = cpu_seconds()
    taken = await contender.latencies(load.latency_s)
    spent = cpu_seconds() - before
    result = tail("", taken)
    result["req_s"] = await contender.rate(load.rate_s, load.in_flight)
    if spent:
        result["cpu_us"] = spent * 1e6 / len(taken)
    if load.one_core and can_pin():
        with one_core():
            taken = await contender.latencies(load.latency_s)
        result["one_core_p50_us"] = percentile(taken, 0.50) / NS_PER_US
    if load.open_s and can_tick():
        result["open_req_s"] = min(OPEN_SHARE * result["req_s"], MAX_OPEN_REQ_S)
        taken = await contender.open_loop(load.open_s, result["open_req_s"])
        result |= tail("open_", taken)
    return result


def tail(prefix: str, taken: Sequence[float]) -> dict[str, float]:
    """Return median and tail of latencies in ns, as metrics in µs."""
    shares = {"p50_us": 0.50, "p99_us": 0.99, "p999_us": 0.999}
    return {prefix + name: percentile(taken, share) / NS_PER_US for name, share in shares.items()}


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return each metric's median over the rounds."""
    return {metric: statistics.median(r[metric] for r in rounds) for metric in rounds[0]}


def resident_mib() -> float:
    """Return the memory of this process that is resident now; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def settle_gc() -> None:
    """Put what start-up left behind out of the collector's sight: the same for every contender."""
    gc.collect()
    gc.freeze()
