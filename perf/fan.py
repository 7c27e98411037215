"""The load of the suite `fanout`: who publishes how far ahead, and what subscribers report.

The publisher keeps within a window of what the slowest subscriber has reported, so that nothing
needs to be dropped. How messages and reports travel is the contenders' business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter_ns

from pydantic import BaseModel

from .workloads import NS_PER_S, PING, REQUEST_TIMEOUT_S, Load, Ping

__all__ = ["REPORTS", "TOPIC", "Publisher", "Report", "Subscribers", "measure", "shares"]

TOPIC = "perf.news"
REPORTS = "perf.reports"
WINDOW = 256
"""Messages that the publisher may be ahead of the slowest subscriber. With four times as many
nats-server cuts 100 subscribers off as slow."""
REPORT_EVERY = 64
"""Messages after which a process of subscribers reports."""


class Report(BaseModel):
    """What all subscribers of one process have received."""

    process: int
    messages: int
    dropped: int


def shares(subscribers: int) -> list[int]:
    """Return how many subscribers each process has: two processes, one if there is only one."""
    half = subscribers // 2
    return [subscribers - half, half] if half else [subscribers]


class Subscribers:
    """The subscribers of one process: counts what each receives, and says when to report."""

    def __init__(self, process: int, count: int) -> None:
        self._process = process
        self._received = [0] * count
        self._reported = 0
        self._dropped = 0

    def take(self, subscriber: int, ping: Ping) -> Report | None:
        """Note a message of one subscriber; returns what to report now, if anything."""
        sequence = ping.sequence
        self._dropped += sequence - self._received[subscriber]
        self._received[subscriber] = received = sequence + 1
        if received % REPORT_EVERY:
            return None
        slowest = min(self._received)
        if slowest - self._reported < REPORT_EVERY:
            return None
        self._reported = slowest - slowest % REPORT_EVERY
        return Report(process=self._process, messages=self._reported, dropped=self._dropped)


@dataclass(frozen=True, slots=True)
class _Round:
    deliveries_s: float
    dropped: int


class Publisher:
    """Publishes within the window and counts what is reported."""

    def __init__(self, subscribers: int, publish: Callable[[Ping], Awaitable[None]]) -> None:
        self._subscribers = subscribers
        self._publish = publish
        self._reports = {
            process: Report(process=process, messages=0, dropped=0)
            for process in range(len(shares(subscribers)))
        }
        self._slowest = 0
        self._changed = asyncio.Event()
        self._sent = 0
        self._ping = PING.model_copy()

    def reported(self, report: Report) -> None:
        """Take a report."""
        self._reports[report.process] = report
        self._slowest = min(report.messages for report in self._reports.values())
        self._changed.set()

    async def run(self, seconds: float) -> _Round:
        """Publish for `seconds` and wait until all has been reported.

        Raises:
            TimeoutError: no report came for long.
        """
        before, dropped = self._sent, self._dropped()
        start = perf_counter_ns()
        end = start + int(seconds * NS_PER_S)
        ping, publish = self._ping, self._publish
        fields = vars(ping)  # a model's own way to set one takes as long as half a message
        while self._sent % REPORT_EVERY or perf_counter_ns() < end:
            if self._sent - self._slowest >= WINDOW:
                await self._until_within(WINDOW - 1)
            fields["sequence"] = self._sent
            await publish(ping)
            self._sent += 1
        await self._until_within(0)
        deliveries = (self._sent - before) * self._subscribers
        lost = self._dropped() - dropped
        taken = perf_counter_ns() - start
        return _Round((deliveries - lost) * NS_PER_S / taken, lost)

    def _dropped(self) -> int:
        return sum(report.dropped for report in self._reports.values())

    async def _until_within(self, ahead: int) -> None:
        while self._sent - self._slowest > ahead:
            self._changed.clear()
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                await self._changed.wait()


async def measure(publisher: Publisher, load: Load) -> dict[str, float]:
    """Drive one round."""
    done = await publisher.run(load.rate_s)
    return {"deliveries_s": done.deliveries_s, "dropped": done.dropped}
