"""Spans put in order: the traces that they are of, and the tree of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..telemetry import Span

__all__ = ["Branch", "TraceSummary", "summaries", "tree"]


@dataclass(frozen=True, slots=True)
class Branch:
    """A span and those under it, by their start."""

    span: Span
    below: tuple[Branch, ...]


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """One trace, as far as its spans are known."""

    trace: str
    start_ns: int
    duration_s: float
    target: str
    """Who was asked first."""
    spans: int
    error: str
    """The code of the error that it ended with, empty for a reply."""


def tree(spans: Iterable[Span]) -> tuple[Branch, ...]:
    """Return the roots of spans of one trace; one whose parent is not known is a root, too."""
    ordered = sorted(spans, key=lambda span: span.start_ns)
    known = {span.span for span in ordered}
    below: dict[str, list[Span]] = {}
    for span in ordered:
        # A peer that lies about its ids must not make a circle of them.
        is_root = span.parent not in known or span.parent == span.span
        below.setdefault("" if is_root else span.parent, []).append(span)

    def branches(parent: str) -> tuple[Branch, ...]:
        return tuple(Branch(span, branches(span.span)) for span in below.pop(parent, ()))

    return branches("")


def summaries(spans: Sequence[Span]) -> list[TraceSummary]:
    """Return the traces that spans are of, by their start."""
    traces: dict[str, list[Span]] = {}
    for span in spans:
        traces.setdefault(span.trace, []).append(span)
    found = [_summary(trace, of) for trace, of in traces.items()]
    return sorted(found, key=lambda summary: summary.start_ns)


def _summary(trace: str, spans: Sequence[Span]) -> TraceSummary:
    ids = {span.span for span in spans}
    roots = [span for span in spans if span.parent not in ids] or list(spans)
    root = min(roots, key=lambda span: span.start_ns)
    return TraceSummary(
        trace, root.start_ns, root.duration_s, root.account.target, len(spans), root.error
    )
