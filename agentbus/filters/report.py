"""The ledger of all filters in one table: what each saved on each edge, and what that cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .guard import Balance, Edge, Guard

__all__ = ["FilterReport", "FilterRow", "add_up", "report_rows"]

_FORGOTTEN = Edge("", "", "")


@dataclass(frozen=True, slots=True)
class FilterRow:
    """One filter on one edge; all names are empty in the row of edges that were forgotten."""

    sender: str
    receiver: str
    filter: str
    balance: Balance
    why_off: str = ""
    """Why the filter was demoted on this edge; empty if it is on."""


@dataclass(frozen=True, slots=True)
class FilterReport:
    """All rows, the best first, and their sum."""

    rows: tuple[FilterRow, ...]
    total: Balance


def report_rows(guards: Iterable[Guard]) -> tuple[FilterRow, ...]:
    """Return the rows of guards, such as those of all models in a process."""
    rows: list[FilterRow] = []
    for guard in guards:
        for edge, (balance, why) in guard.balances().items():
            rows.append(FilterRow(*edge, balance, why))
        if guard.forgotten != Balance():
            rows.append(FilterRow(*_FORGOTTEN, guard.forgotten))
    return tuple(rows)


def add_up(rows: Iterable[FilterRow]) -> FilterReport:
    """Return what rows, of one process or of many, say together: one row for an edge and filter, wherever it was counted."""
    merged: dict[Edge, FilterRow] = {}
    for row in rows:
        edge = Edge(row.sender, row.receiver, row.filter)
        known = merged.get(edge)
        if known is None:
            merged[edge] = row
        else:
            why = known.why_off or row.why_off
            merged[edge] = FilterRow(*edge, known.balance + row.balance, why)
    ordered = sorted(merged.items(), key=lambda item: (-item[1].balance.net, item[0]))
    total = sum((row.balance for row in merged.values()), Balance())
    return FilterReport(tuple(row for _, row in ordered), total)
