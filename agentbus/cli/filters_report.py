"""The table of `agentbus filters report`: what filters saved on each edge, net of all they cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..filters import Balance, FilterReport, FilterRow, add_up
from .runtime import print_json

__all__ = ["print_report"]

_NOTHING = "No filter has shortened anything yet."
_FORGOTTEN = "edges forgotten for room"
_MEANING = (
    "All in tokens. later: what later calls saved, too; back: fetched back, or given by tool calls made again; turns: the extra turns "
    "for these; lost: cached, and of no use since a prefix was changed; "
    "net: the sum of saved to lost."
)


def print_report(rows: Iterable[FilterRow], *, json: bool) -> None:
    """Print the rows of all processes as one table, or as one JSON object."""
    report = add_up(rows)
    if json:
        print_json({"edges": [_json(row) for row in report.rows], "total": _terms(report.total)})
    elif report.rows:
        _print(report)
    else:
        print(_NOTHING)


def _json(row: FilterRow) -> dict[str, Any]:
    return {
        "sender": row.sender,
        "receiver": row.receiver,
        "filter": row.filter,
        "on": not row.why_off,
        "why_off": row.why_off or None,
        **_terms(row.balance),
    }


def _terms(balance: Balance) -> dict[str, int]:
    return {**asdict(balance), "saved": balance.saved, "net": balance.net}


def _print(report: FilterReport) -> None:
    table = Table("edge", "filter")
    for name in ("texts", "sent", "saved", "later", "back", "turns", "lost", "net"):
        table.add_column(name, justify="right")
    for row in report.rows:
        edge = f"{row.sender} → {row.receiver}" if row.filter else _FORGOTTEN
        name = f"{row.filter} (off)" if row.why_off else row.filter
        table.add_row(escape(edge), escape(name), *_cells(row.balance))
    if len(report.rows) > 1:
        table.add_section()
        table.add_row(f"{len(report.rows)} rows", "", *_cells(report.total))
    console = Console(highlight=False)
    console.print(table)
    for row in report.rows:
        if row.why_off:
            off = f"{row.filter} is off from {row.sender} to {row.receiver}: {row.why_off}."
            console.print(escape(off))
    console.print(_MEANING, style="dim")


def _cells(balance: Balance) -> list[str]:
    back = balance.retrieved + balance.repeated
    numbers = (
        balance.deliveries,
        balance.sent,
        balance.saved,
        balance.spared,
        -back,
        -balance.turns,
        -balance.lost,
    )
    return [*(f"{number:,}" for number in numbers), _coloured(balance.net)]


def _coloured(net: int) -> str:
    return f"[{'red' if net < 0 else 'green'}]{net:,}[/]" if net else "0"
