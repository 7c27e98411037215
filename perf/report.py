"""Rows of a measurement: what they say, which way is better, and how they are shown and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from agentbus.demo.machine import machine

__all__ = [
    "UNITS",
    "VIOLATIONS",
    "Row",
    "compare",
    "ratio",
    "show",
    "unit_of",
    "write_json",
]

VIOLATIONS = "violations"
"""Unit of what must be 0: where it is not, a run has failed."""
UNITS: Mapping[str, bool] = {
    "us": False,
    "ms": False,
    "s": False,
    "bytes": False,
    "mib": False,
    "tokens": False,
    "percent": True,
    "points": False,
    "score": False,
    "nats": False,
    "dropped": False,
    "req_s": True,
    "tok_s": True,
    "msg_s": True,
    "deliveries_s": True,
    "faults": True,
    "requests": True,
    "replies": True,
    "errors": False,
    VIOLATIONS: False,
}
"""Units that a metric's name may end in, and whether more of it is better."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one case against one peer. The fields' names are the JSON's keys."""

    suite: str
    case: str
    metric: str
    value: float
    unit: str
    peer: str | None
    peer_value: float | None
    ratio: float | None
    """How many times better than the peer: over 1 is better, whatever the metric's direction."""


def unit_of(metric: str) -> str:
    """Return the longest unit that the metric's name ends in.

    Raises:
        ValueError: it ends in none of `UNITS`.
    """
    fitting = [unit for unit in UNITS if metric == unit or metric.endswith("_" + unit)]
    if not fitting:
        raise ValueError(f"the name of the metric {metric!r} does not end in a unit")
    return max(fitting, key=len)


def ratio(metric: str, value: float, peer_value: float) -> float | None:
    """Return how many times better `value` is than `peer_value`; None if one of them is 0."""
    if not value or not peer_value:
        return None
    return value / peer_value if UNITS[unit_of(metric)] else peer_value / value


def compare(
    suite: str,
    case: str,
    ours: Mapping[str, float],
    peers: Mapping[str, Mapping[str, float]],
) -> list[Row]:
    """Return a row for each of our metrics and each peer that has it; one without, if none has."""
    rows: list[Row] = []
    for metric, value in ours.items():
        unit = unit_of(metric)
        with_it = {name: theirs[metric] for name, theirs in peers.items() if metric in theirs}
        if not with_it:
            rows.append(Row(suite, case, metric, value, unit, None, None, None))
        for name, theirs in with_it.items():
            better = ratio(metric, value, theirs)
            rows.append(Row(suite, case, metric, value, unit, name, theirs, better))
    return rows


def show(
    console: Console, title: str, rows: Sequence[Row], versions: Mapping[str, str], method: str
) -> None:
    """Print the rows as a table, with machine, versions and method under it."""
    table = Table(title=title, title_justify="left", title_style="bold")
    # A name that is cut names nothing, so cases stand above their metrics, and long ones fold.
    table.add_column("case and metric", overflow="fold")
    table.add_column("agentbus", justify="right", no_wrap=True)
    table.add_column("peer", overflow="fold")
    table.add_column("its value", justify="right", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    last = ("", "")
    for row in rows:
        new = (row.case, row.metric) != last
        if row.case != last[0]:
            table.add_section()
            table.add_row(Text(row.case.strip(), style="bold"))
        table.add_row(
            Padding(row.metric, (0, 0, 0, 2)) if new else "",
            _number(row.value) if new else "",
            row.peer or "–",
            _number(row.peer_value),
            _ratio_cell(row.ratio),
        )
        last = (row.case, row.metric)
    console.print(table)
    console.print("Ratio: how many times better than the peer; under 1 is worse.")
    console.print(f"Machine: {machine()}", highlight=False)
    console.print(
        "Versions: " + ", ".join(f"{name} {number}" for name, number in versions.items()),
        highlight=False,
    )
    console.print(f"Method: {method}", highlight=False)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _ratio_cell(value: float | None) -> str:
    if value is None:
        return "–"
    digits = f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
    return f"[{'green' if value >= 1 else 'red'}]{digits}[/]"


def write_json(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as a JSON array of objects."""
    path.write_bytes(orjson.dumps([asdict(row) for row in rows], option=orjson.OPT_INDENT_2))
