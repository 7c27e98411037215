"""The commands that look at a bus: `ps`, `top`, `tail`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ..errors import ConfigError
from ..ops import AgentRates, ProcessReport, handled, rates, survey
from ..routing import Location
from .keys import Join
from .runtime import json_text, print_json
from .tables import fitting_table
from .terminal import print_line

__all__ = ["require_answers", "run_ps", "run_tail", "run_top"]

REFRESH = 1.0
"""Seconds between two looks of `top`."""
_NO_AGENTS = "No agents are on the bus. Start some: agentbus worker name=module:Class"


async def run_ps(join: Join, *, json: bool) -> None:
    """Print who is on a bus."""
    async with join("ps") as bus:
        agents = await bus.agents()
        processes = {process.name: process for process in await survey(bus)}
    rows = [_row(agent, processes.get(agent.peer)) for agent in agents]
    if json:
        print_json(rows)
        return
    if not rows:
        print(_NO_AGENTS)
        return
    # What a person looks for fits 80 columns; a program has the rest from --json.
    table = Table()
    for name in ("agent", "process", "pid", "requests"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(
            row["name"],
            row["process"],
            _or_dash(row["pid"]),
            _or_dash(row["requests"]),
        )
    Console().print(table)


def _row(agent: Location, process: ProcessReport | None) -> dict[str, Any]:
    """Return what `ps` says about an agent; nulls where its process does not answer."""
    since = requests = None
    if process is not None:
        began = datetime.now(UTC) - timedelta(seconds=process.uptime_s)
        since = began.isoformat(timespec="seconds")
        counts = {report.name: handled(report) for report in process.bus.agents}
        requests = counts.get(agent.name)
    return {
        "name": agent.name,
        "process": agent.peer,
        "socket": agent.path,
        "pid": process and process.pid,
        "since": since,
        "requests": requests,
        "metrics": process and process.metrics,
    }


def _or_dash(value: object) -> str:
    return "–" if value is None else str(value)


def require_answers(command: str, processes: Sequence[ProcessReport]) -> None:
    """Make sure that a command looks at something.

    Raises:
        ConfigError: no process, not even the broker's, says how it is.
    """
    if not processes:
        problem = "no process tells this one how it is; with an [acl] that takes admin"
        raise ConfigError(command, f"{problem} on their names, '$process.>'")


async def run_top(join: Join, *, once: bool, json: bool) -> None:
    """Show what agents do, once a second, until stopped; with `once` of one second alone."""
    async with join("top") as bus:
        before = await survey(bus)
        require_answers("top", before)
        console = Console()
        with Live(console=console, auto_refresh=False, transient=once or json) as live:
            while True:
                await anyio.sleep(REFRESH)
                after = await survey(bus)
                rows = rates(before, after)
                if json:
                    print_json([dataclasses.asdict(row) for row in rows])
                elif not once:
                    live.update(_top(rows, after, console.width), refresh=True)
                if once:
                    break
                before = after
        if not json:
            console.print(_top(rows, after, console.width))


def _top(rows: Sequence[AgentRates], processes: Sequence[ProcessReport], width: int) -> Table:
    saves = any(row.saved_tokens for row in rows)
    structured = any(row.structured_answers for row in rows)
    counts = ["waiting", "errors", "reused", "prefilled", "lost"]
    extra = [*["saved"] * saves, *["unparsable"] * structured]
    table = fitting_table(
        width,
        ["agent", "req/s", "p50 ms", "p99 ms", *counts, *extra],
        [_top_row(row, saves=saves, structured=structured) for row in rows],
        names={"agent": 12},
        first_to_go=["lost", "p50 ms", *extra, "prefilled", "waiting"],
    )
    table.title, table.title_justify = f"{len(rows)} agents in {len(processes)} processes", "left"
    return table


def _top_row(row: AgentRates, *, saves: bool, structured: bool) -> list[str]:
    return [
        row.agent,
        f"{row.requests_per_s:,.1f}",
        _milliseconds(row.p50_s),
        _milliseconds(row.p99_s),
        str(row.waiting),
        str(row.errors),
        f"{row.reused_tokens:,}",
        f"{row.prefilled_tokens:,}",
        f"{row.lost_tokens:,}",
        *([f"{row.saved_tokens:,}"] if saves else []),
        *([_share(row.unparsable_answers, row.structured_answers)] if structured else []),
    ]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%} of {whole:,}" if whole else "–"


def _milliseconds(seconds: float | None) -> str:
    """Write a bucket's bound: a time is known to a factor of two, and shown no finer."""
    return "–" if seconds is None else f"≤{seconds * 1e3:.3g}"


async def run_tail(join: Join, pattern: str, *, json: bool) -> None:
    """Print what is published on topics that match, until stopped."""
    async with join("tail") as bus:
        bus.read_plain()
        async with bus.subscribe(pattern) as messages:
            missed = 0
            async for message in messages:
                if messages.dropped > missed:
                    missed = messages.dropped
                    print(f"(missed so far, since they came too fast: {missed})", file=sys.stderr)
                if json:
                    print_json(message._asdict())
                else:
                    source = f" ({message.source})" if message.source else ""
                    print_line(f"{message.topic}{source}: {json_text(message.value)}")
