"""The fan-out's window, reports and counts of loss, and short runs of its contenders."""

from __future__ import annotations

import asyncio
from collections import deque

import anyio
import pytest

from perf.fan import REPORT_EVERY, WINDOW, Publisher, Report, Subscribers, shares
from perf.peers import NATS
from perf.rounds import interleave
from perf.workloads import PING, Load, Ping

BRIEF = Load(rounds=1, warmup_s=0.02, latency_s=0.0, rate_s=0.02)


def _ping(sequence: int) -> Ping:
    return PING.model_copy(update={"sequence": sequence})


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [1]), (2, [1, 1]), (3, [2, 1]), (100, [50, 50])]
)
def test_subscribers_are_spread_over_two_processes(count: int, expected: list[int]) -> None:
    assert shares(count) == expected


def test_a_process_reports_when_its_slowest_subscriber_has_enough() -> None:
    state = Subscribers(3, 2)
    for sequence in range(2 * REPORT_EVERY):
        assert state.take(0, _ping(sequence)) is None
    reports = [state.take(1, _ping(sequence)) for sequence in range(2 * REPORT_EVERY)]
    assert [report.messages for report in reports if report] == [REPORT_EVERY, 2 * REPORT_EVERY]
    assert reports[-1] == Report(process=3, messages=2 * REPORT_EVERY, dropped=0)


def test_a_gap_in_the_sequence_is_counted_once() -> None:
    state = Subscribers(0, 1)
    kept = [sequence for sequence in range(REPORT_EVERY) if sequence not in (5, 6, 20)]
    reports = [state.take(0, _ping(sequence)) for sequence in kept]
    assert reports[-1] == Report(process=0, messages=REPORT_EVERY, dropped=3)
    assert state.take(0, _ping(REPORT_EVERY)) is None


@pytest.mark.anyio
async def test_the_publisher_keeps_within_the_window_of_the_slowest_process() -> None:
    sent: deque[int] = deque()
    full = asyncio.Event()

    async def publish(ping: Ping) -> None:
        sent.append(ping.sequence)
        if len(sent) == WINDOW:
            full.set()

    publisher = Publisher(2, publish)

    def report(process: int, dropped: int) -> None:
        publisher.reported(Report(process=process, messages=len(sent), dropped=dropped))

    with anyio.fail_after(10):
        running = asyncio.create_task(publisher.run(0.0005))
        await full.wait()
        report(0, dropped=0)
        await asyncio.sleep(0)
        assert len(sent) == WINDOW and not running.done()
        while not running.done():
            report(0, dropped=2)
            report(1, dropped=1)
            await asyncio.sleep(0)
        done = await running
    assert list(sent) == list(range(len(sent))) and len(sent) % REPORT_EVERY == 0
    assert done.dropped == 3
    assert done.deliveries_s > 0


@pytest.mark.anyio
@pytest.mark.parametrize("count", [1, 4])
async def test_agentbus_delivers_all(count: int) -> None:
    target = f"perf.micro.fanout_side:contend:{count}"
    results = await interleave({"ours": target}, BRIEF, lambda what: None, "perf.fan:measure")
    assert results["ours"]["dropped"] == 0
    assert results["ours"]["deliveries_s"] > 0


@pytest.mark.anyio
@pytest.mark.skipif(bool(NATS.missing()), reason="the peer is not installed")
async def test_nats_delivers_all() -> None:
    target = "perf.peers.nats_fanout:contend:4"
    results = await interleave({"nats": target}, BRIEF, lambda what: None, "perf.fan:measure")
    assert results["nats"]["dropped"] == 0
    assert results["nats"]["deliveries_s"] > 0
