from __future__ import annotations

import pytest

from agentbus.ops import ProcessReport, rates
from agentbus.telemetry import AgentMetrics, AgentReport, BusReport, ModelCost


def process(name: str, uptime_s: float, *agents: AgentReport) -> ProcessReport:
    bus = BusReport(
        agents=agents,
        links=(),
        sent=0,
        failures={},
        published=0,
        dropped=0,
        missed_deadlines=0,
        under_way=0,
    )
    return ProcessReport(name=name, pid=1, uptime_s=uptime_s, metrics="", draining=False, bus=bus)


def test_an_interval() -> None:
    metrics = AgentMetrics()
    metrics.replied(0.0, 1.0)
    before = process("p", 10.0, metrics.report("b", 0))
    for _ in range(3):
        metrics.replied(0.0, 5e-6)
    metrics.failed("mailbox_full")
    after = process("p", 12.0, metrics.report("b", 7))
    (row,) = rates([before], [after])
    assert (row.agent, row.process, row.pid) == ("b", "p", 1)
    assert row.requests_per_s == 2.0
    assert row.p50_s == row.p99_s == pytest.approx(8e-6)
    assert (row.waiting, row.requests, row.errors) == (7, 5, 1)
    (idle,) = rates([after], [process("p", 13.0, metrics.report("b", 0))])
    assert (idle.requests_per_s, idle.p50_s, idle.p99_s) == (0.0, None, None)


def test_answers_without_a_value_are_counted() -> None:
    metrics = AgentMetrics()
    metrics.charged(ModelCost(structured_answers=4, unparsable_answers=1))
    before, after = (process("p", uptime, metrics.report("b", 0)) for uptime in (1.0, 2.0))
    (row,) = rates([before], [after])
    assert (row.structured_answers, row.unparsable_answers) == (4, 1)


def test_only_what_is_in_both_surveys_counts() -> None:
    report = AgentMetrics().report("a", 0)
    tool = AgentMetrics().report("$process.p", 0)
    assert rates([], [process("p", 1.0, report)]) == []
    assert rates([process("p", 1.0)], [process("p", 2.0, report)]) == []
    assert rates([process("p", 1.0, report)], [process("p", 1.0, report)]) == []
    assert rates([process("p", 1.0, tool)], [process("p", 2.0, tool)]) == []
