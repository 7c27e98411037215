"""The table of `agentbus filters report`: what filters saved on each edge, net of all they cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from ..filters import Balance, FilterReport, FilterRow, add_up
from ..ops import find_filters, survey
from .keys import Join
from .runtime import print_json
from .tables import fitting_table
from .terminal import literal
from .watching import require_answers

__all__ = ["print_report", "run_report"]

_NOTHING = "No filter has shortened anything yet."
_FORGOTTEN = "edges forgotten for room"
_MEANING = (
    "All in tokens. A delivery counts once, in however many prompts it stands. saved: net of marks. "
    "cost: fetched back, or given by tool calls made again, with the turns for that; and cached for "
    "nothing since a prefix was changed."
)


async def run_report(join: Join, *, json: bool) -> None:
    """Print what filters did in all processes of a bus.

    Raises:
        ConfigError: no process may be asked.
    """
    async with join("filters") as bus:
        rows = await find_filters(bus)
        if not rows:
            require_answers("filters report", await survey(bus))
    print_report(rows, json=json)


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
    console = Console(highlight=False)
    count = len(report.rows)
    table = fitting_table(
        console.width,
        ("edge, filter", "texts", "sent", "saved", "cost", "net"),
        [(_edge(row), *_cells(row.balance)) for row in report.rows],
        names={"edge, filter": 20},
        first_to_go=("texts", "sent", "cost", "saved"),
        total=(f"{count} rows", *_cells(report.total)) if count > 1 else (),
    )
    console.print(table)
    for row in report.rows:
        if row.why_off:
            off = f"{row.filter} is off from {row.sender} to {row.receiver}: {row.why_off}."
            console.print(literal(off))
    console.print(_MEANING, style="dim")


def _edge(row: FilterRow) -> str:
    if not row.filter:
        return _FORGOTTEN
    off = " (off)" if row.why_off else ""
    return f"{row.sender} → {row.receiver}\n  {row.filter}{off}"


def _cells(balance: Balance) -> tuple[str | Text, ...]:
    numbers = (balance.deliveries, balance.sent, balance.saved, balance.net - balance.saved)
    style = "red" if balance.net < 0 else "green" if balance.net else ""
    return *(f"{number:,}" for number in numbers), Text(f"{balance.net:,}", style)
