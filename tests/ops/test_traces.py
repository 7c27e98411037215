"""Spans as traces and trees."""

from __future__ import annotations

from agentbus.ops import Branch, summaries, tree
from agentbus.telemetry import HopAccount, Span


def span(number: str, parent: str, start: int, trace: str = "t", error: str = "") -> Span:
    return Span(
        trace=trace,
        span=number,
        parent=parent,
        kind="client",
        process="p",
        start_ns=start,
        duration_s=1.0,
        error=error,
        account=HopAccount("", number),
    )


def test_spans_stand_under_their_parents_by_their_start() -> None:
    root, first, second, leaf = (
        span("a", "", 1),
        span("b", "a", 2),
        span("c", "a", 3),
        span("d", "c", 4),
    )
    lost = span("e", "gone", 0)
    assert tree([leaf, second, first, root, lost]) == (
        Branch(lost, ()),
        Branch(root, (Branch(first, ()), Branch(second, (Branch(leaf, ()),)))),
    )


def test_a_circle_of_ids_ends() -> None:
    assert tree([span("a", "b", 1), span("b", "a", 2)]) == ()
    own = span("a", "a", 1)
    assert tree([own]) == (Branch(own, ()),)
    assert len(summaries([span("a", "b", 1), span("b", "a", 2)])) == 1


def test_a_trace_is_told_by_its_first_root() -> None:
    found = summaries(
        [
            span("x", "", 9, trace="u"),
            span("b", "a", 2, error="late"),
            span("a", "", 1, error="no_responder"),
        ]
    )
    assert [(s.trace, s.target, s.spans, s.error) for s in found] == [
        ("t", "a", 2, "no_responder"),
        ("u", "x", 1, ""),
    ]
