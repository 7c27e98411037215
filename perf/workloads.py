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
from time import perf_counter_ns
from typing import Protocol

from pydantic import BaseModel

from .cores import can_pin, cpu_seconds, one_core

__all__ = [
    "FULL",
    "PAYLOAD_BYTES",
    "PING",
    "QUICK",
    "REQUEST_TIMEOUT_S",
    "Calls",
    "Contender",
    "Load",
    "Ping",
    "WrongReply",
    "checked_calls",
    "make_ping",
    "measure",
    "medians",
    "percentile",
    "settle_gc",
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
    in_flight: int = 64
    one_core: bool = False
    """Also time single requests with all processes of the contender on one core."""


QUICK = Load(rounds=7, warmup_s=0.5, latency_s=0.35, rate_s=0.3)
FULL = Load(rounds=11, warmup_s=2.0, latency_s=1.5, rate_s=1.5)


class Contender(Protocol):
    """One system under load, opened and ready to answer. All of them close the loop."""

    async def latencies(self, seconds: float) -> list[int]:
        """Send one request after another for `seconds`; return each round trip in ns."""
        ...

    async def rate(self, seconds: float, in_flight: int) -> float:
        """Keep `in_flight` requests going for `seconds`; return replies a second."""
        ...


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
    """Drive one round: latency at concurrency 1, then replies a second with many in flight."""
    before = cpu_seconds()
    taken = await contender.latencies(load.latency_s)
    spent = cpu_seconds() - before
    result = {
        "p50_us": percentile(taken, 0.50) / NS_PER_US,
        "p99_us": percentile(taken, 0.99) / NS_PER_US,
        "req_s": await contender.rate(load.rate_s, load.in_flight),
    }
    if spent:
        result["cpu_us"] = spent * 1e6 / len(taken)
    if load.one_core and can_pin():
        with one_core():
            taken = await contender.latencies(load.latency_s)
        result["one_core_p50_us"] = percentile(taken, 0.50) / NS_PER_US
    return result


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return each metric's median over the rounds."""
    return {metric: statistics.median(r[metric] for r in rounds) for metric in rounds[0]}


def settle_gc() -> None:
    """Put what start-up left behind out of the collector's sight: the same for every contender."""
    gc.collect()
    gc.freeze()
