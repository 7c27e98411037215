"""What `agentbus top` and `agentbus trace` show of values that were asked for, and of filters."""

from __future__ import annotations

import dataclasses

from rich.console import Console

from agentbus.cli.tracing import _is_routine, _label
from agentbus.cli.watching import _top
from agentbus.ops import AgentRates, TraceSummary
from agentbus.telemetry import HopAccount, ModelCost, Span


def row(agent: str, structured: int, unparsable: int) -> AgentRates:
    return AgentRates(
        agent=agent,
        process="p",
        pid=1,
        requests_per_s=0.0,
        p50_s=None,
        p99_s=None,
        waiting=0,
        requests=0,
        errors=0,
        reused_tokens=0,
        prefilled_tokens=0,
        saved_tokens=0,
        left_out_tokens=0,
        lost_tokens=0,
        structured_answers=structured,
        unparsable_answers=unparsable,
    )


def shown(*rows: AgentRates, width: int = 120) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(_top(rows, [], width))
    return capture.get()


def test_top_shows_the_rate_where_values_were_asked_for() -> None:
    text = shown(row("judge", 1250, 50), row("writer", 0, 0))
    judge, writer = (line for line in text.split("\n") if "judge" in line or "writer" in line)
    assert "unparsable" in text
    assert "4.0% of 1,250" in judge
    assert writer.count("–") == 3
    assert "unparsable" not in shown(row("writer", 0, 0))


def test_top_shows_what_matters_most_where_a_terminal_is_narrow() -> None:
    busy = dataclasses.replace(
        row("research-assistant", 9_000, 12),
        reused_tokens=12_345_678,
        prefilled_tokens=234_567,
        saved_tokens=1,
    )
    for width, there, gone in (
        (160, ["p50 ms", "prefilled", "lost", "saved", "unparsable"], []),
        (80, ["req/s", "p99 ms", "waiting", "errors", "12,345,678", "234,567"], ["lost", "saved"]),
        (60, ["req/s", "p99 ms", "errors", "12,345,678"], ["prefilled"]),
    ):
        text = shown(busy, width=width)
        assert all(name in text for name in there), (width, text)
        assert not any(name in text for name in gone)
        assert "…" not in text and max(map(len, text.split("\n"))) <= width


def test_traces_leave_out_what_the_bus_asks_itself_unless_that_failed() -> None:
    asked = [("$process.w1", ""), ("$process.w1", "timeout"), ("writer", ""), ("writer", "timeout")]
    traces = [TraceSummary("t", 1, 0.1, target, 1, error) for target, error in asked]
    assert [_is_routine(trace) for trace in traces] == [True, False, False, False]


def label(model: ModelCost) -> str:
    account = HopAccount("a", "b", model=model)
    return _label(
        Span(
            trace="t",
            span="s",
            parent="",
            kind="server",
            process="p",
            start_ns=0,
            duration_s=1.0,
            error="",
            account=account,
        )
    )


def test_trace_says_how_many() -> None:
    assert "2 of 3 unparsable" in label(
        ModelCost(calls=3, structured_answers=3, unparsable_answers=2)
    )


def test_trace_says_what_filters_left_out() -> None:
    assert "70 saved by filters, at p" in label(ModelCost(calls=1, saved_tokens=70))
    lossy = label(ModelCost(calls=1, saved_tokens=70, left_out_tokens=30))
    assert "70 saved by filters (30 of them left out), at p" in lossy
