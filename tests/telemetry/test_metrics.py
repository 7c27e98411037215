from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.telemetry import AgentMetrics, Histogram, ModelCost, TimeLog, upper_bound
from agentbus.telemetry.metrics import BUCKETS

TIME = st.floats(min_value=0, max_value=1e6)


def observed(times: Iterable[float]) -> Histogram:
    histogram = Histogram()
    for seconds in times:
        histogram.observe(seconds)
    return histogram


def test_a_time_is_under_the_bound_of_its_bucket() -> None:
    report = observed((0.0, 0.9e-6, 1e-6, 3e-6, 1.0)).report()
    assert report.counts[:3] == (2, 1, 1)
    assert report.counts[20] == 1
    assert upper_bound(19) < 1.0 < upper_bound(20)
    assert report.total_s == pytest.approx(1.0000049)


@given(st.lists(TIME, max_size=50))
def test_nothing_is_lost_however_long_it_took(times: list[float]) -> None:
    report = observed(times).report()
    assert len(report.counts) == BUCKETS
    assert report.count == len(times)
    bounded = [seconds for seconds in times if seconds < upper_bound(BUCKETS - 2)]
    assert report.counts[-1] == len(times) - len(bounded)


@given(st.lists(st.floats(min_value=1e-6, max_value=60), min_size=1, max_size=50))
def test_a_quantile_is_at_most_twice_the_true_one(times: list[float]) -> None:
    found = observed(times).report().quantile(0.5)
    true = sorted(times)[(len(times) + 1) // 2 - 1]
    assert found is not None
    # Whole microseconds are sorted in: just over 2 µs counts as 2 µs.
    assert true <= found <= 2 * true + 1e-6


def test_reports_can_be_subtracted() -> None:
    histogram = observed([1.0])
    before = histogram.report()
    histogram.observe(5e-6)
    recent = histogram.report().since(before)
    assert recent.count == 1
    assert recent.quantile(0.99) == upper_bound(3)
    assert before.since(before).quantile(0.5) is None


def test_an_agent_counts_replies_failures_and_tokens() -> None:
    metrics = AgentMetrics()
    metrics.replied(1e-6, 5e-6)
    metrics.replied(1e-6, 9e-6)
    metrics.failed("no_handler")
    metrics.failed("no_handler")
    metrics.charged(ModelCost(1, 0, 0, 5, 3, 2, 7, 0, 0, 0, 0.5))
    metrics.charged(ModelCost(2, 0, 0, 5, 3, 2, 7, 0, 0, 0, 0.9, lost_tokens=1))
    metrics.charged(ModelCost(saved_tokens=4, left_out_tokens=3))
    for failed in (1, 0, 0):
        metrics.charged(
            ModelCost(structured_answers=1, unparsable_answers=failed, repairs=1 - failed)
        )
    report = metrics.report("adder", waiting=3, model="m")
    assert (report.name, report.waiting, report.replies) == ("adder", 3, 2)
    assert report.failures == {"no_handler": 2}
    assert report.queue.counts[1] == 2
    assert (report.handle.counts[3], report.handle.counts[4]) == (1, 1)
    assert (report.reused_tokens, report.prefilled_tokens, report.decoded_tokens) == (6, 4, 14)
    assert report.lost_tokens == 1
    assert (report.saved_tokens, report.left_out_tokens) == (4, 3)
    assert report.model == "m"
    assert (report.structured_answers, report.unparsable_answers, report.repairs) == (3, 1, 2)
    assert (report.ttft.count, report.ttft.total_s) == (1, 0.5)
    assert metrics.report("adder", 0).replies == 2


@given(st.lists(st.tuples(TIME, TIME), max_size=50))
def test_an_agent_sorts_its_times_as_histograms_do(times: list[tuple[float, float]]) -> None:
    metrics = AgentMetrics()
    for queue_s, handle_s in times:
        metrics.replied(queue_s, handle_s)
    report = metrics.report("a", 0)
    assert report.queue == observed(queue_s for queue_s, _ in times).report()
    assert report.handle == observed(handle_s for _, handle_s in times).report()


def test_an_agent_has_all_buckets_though_it_keeps_but_those_that_it_needs() -> None:
    metrics = AgentMetrics()
    assert metrics.report("a", 0).queue == Histogram().report()
    metrics.replied(3e-6, 1e-6)
    metrics.replied(1e-6, 5e-3)
    report = metrics.report("a", 0)
    assert report.queue == observed((3e-6, 1e-6)).report()
    assert report.handle == observed((1e-6, 5e-3)).report()
    assert report.failures == {}


def test_a_log_gives_each_agent_its_times() -> None:
    log, adder, idle = TimeLog(), AgentMetrics(), AgentMetrics()
    log.times += (adder, 1e-6, 5e-6, idle, 3e-6, 2.0, adder, 1e-6, 9e-6)
    log.sort_in()
    log.sort_in()
    assert adder.report("adder", 0).replies == 2
    assert idle.report("idle", 0).handle.total_s == 2.0
    assert idle.report("idle", 0).queue.total_s == 3e-6
