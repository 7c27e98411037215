"""The message, percentiles, and how a round is timed."""

from __future__ import annotations

import asyncio
import math
import os
import sys
from dataclasses import replace

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.cores import group_threads, one_core
from perf.ticker import can_tick
from perf.workloads import (
    MAX_OPEN_REQ_S,
    PAYLOAD_BYTES,
    PING,
    Calls,
    Load,
    Schedule,
    WrongReply,
    checked_calls,
    make_ping,
    measure,
    medians,
    percentile,
)

SHORT = Load(rounds=1, warmup_s=0.0, latency_s=0.01, rate_s=0.01, in_flight=4)


def test_the_message_is_one_kib_of_json() -> None:
    assert len(make_ping().model_dump_json()) == PAYLOAD_BYTES == 1024


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.0, 1.0)]
)
def test_percentiles_of_one_to_a_hundred(share: float, expected: float) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], share) == expected


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1),
    st.floats(min_value=0.0, max_value=1.0),
)
def test_a_percentile_is_the_least_value_that_covers_its_share(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    needed = math.ceil(share * len(values))
    assert found in values
    assert sum(value <= found for value in values) >= needed
    assert sum(value < found for value in values) < max(needed, 1)


def test_medians_go_metric_by_metric() -> None:
    rounds = [{"a_us": 1.0, "b_us": 9.0}, {"a_us": 5.0, "b_us": 1.0}, {"a_us": 2.0, "b_us": 3.0}]
    assert medians(rounds) == {"a_us": 2.0, "b_us": 3.0}


class _Counter:
    """Answers at once, and remembers how many requests were open together."""

    def __init__(self) -> None:
        self.open = 0
        self.most = 0

    async def request(self) -> object:
        self.open += 1
        self.most = max(self.most, self.open)
        await asyncio.sleep(0)
        self.open -= 1
        return PING


@pytest.mark.anyio
async def test_latency_runs_alone_and_rate_with_all_in_flight() -> None:
    counter = _Counter()
    contender = Calls(counter.request)
    assert await contender.latencies(0.01)
    assert counter.most == 1
    assert await contender.rate(0.01, 4) > 0
    assert counter.most == 4
    assert counter.open == 0


@pytest.mark.anyio
async def test_a_round_has_every_metric() -> None:
    result = await measure(Calls(_Counter().request), SHORT)
    assert set(result) - {"cpu_us"} == {"p50_us", "p99_us", "p999_us", "req_s"}
    assert ("cpu_us" in result) == (sys.platform == "linux")
    assert 0 < result["p50_us"] <= result["p99_us"] <= result["p999_us"]


@pytest.mark.anyio
@pytest.mark.skipif(not can_tick(), reason="timers for the loop to wait on are Linux's")
async def test_an_open_loop_starts_requests_whether_or_not_replies_come() -> None:
    counter = _Counter()
    gate = asyncio.Event()

    async def request() -> object:
        counter.open += 1
        if counter.open == 20:
            gate.set()
        await gate.wait()
        return PING

    with anyio.fail_after(10):
        taken = await Calls(request).open_loop(0.02, 1000)
    assert len(taken) == 20
    # Each was due a ms after the one before, and all were answered when the last one had begun.
    assert max(taken) - min(taken) >= 18 * 1_000_000


@pytest.mark.anyio
@pytest.mark.skipif(not can_tick(), reason="timers for the loop to wait on are Linux's")
async def test_an_open_loop_has_a_rate_below_the_closed_one() -> None:
    result = await measure(Calls(_Counter().request), replace(SHORT, open_s=0.01))
    assert result["open_req_s"] == min(result["req_s"] / 2, MAX_OPEN_REQ_S)
    assert 0 < result["open_p50_us"] <= result["open_p99_us"] <= result["open_p999_us"]


def test_a_schedule_gives_each_moment_once_and_no_more_than_asked_for() -> None:
    schedule = Schedule(1.0, 1e9)
    first = schedule.take_due(3)
    assert len(first) == 3 and first[2] - first[0] == 2
    rest = [due for _ in range(5) for due in schedule.take_due(10)]
    assert (first + rest) == list(range(first[0], first[0] + 3 + len(rest)))
    assert not schedule.over
    only = Schedule(0.0, 1.0)
    assert len(only.take_due(5)) == 1 and only.over and only.take_due(5) == []


@pytest.mark.anyio
async def test_a_contender_that_answers_something_else_is_refused() -> None:
    async def request() -> object:
        return PING.model_copy(update={"sequence": 43})

    with pytest.raises(WrongReply):
        await checked_calls(request)


@pytest.mark.skipif(sys.platform != "linux", reason="cores can be chosen on Linux only")
def test_one_core_is_given_back() -> None:
    if sys.platform == "linux":
        before = os.sched_getaffinity(0)
        assert os.getpid() in group_threads()
        with one_core():
            assert os.sched_getaffinity(0) == {max(before)}
        assert os.sched_getaffinity(0) == before
