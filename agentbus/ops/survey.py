"""Asks all processes of a bus how they are, and what they know."""

from __future__ import annotations

from typing import Any, TypeVar

import anyio

from ..client import Bus
from ..errors import AgentbusError
from ..filters import FilterRow
from ..routing import BROKER, AgentList, ListProcesses
from ..telemetry import Span
from .process import FindFilters, FindSpans, FoundFilters, FoundSpans, ProcessQuery, ProcessReport

__all__ = ["SURVEY_TIMEOUT", "find_filters", "find_spans", "survey"]

T = TypeVar("T")

SURVEY_TIMEOUT = 2.0
"""Seconds for a process to answer; one that computes does not look at its links meanwhile."""


async def survey(bus: Bus) -> tuple[ProcessReport, ...]:
    """Return what each process on a bus says about itself, by name.

    A process that does not answer in time is left out.

    Raises:
        NoResponder, PeerLost: there is no broker to say which processes there are.
    """
    found = await _ask_all(bus, ProcessQuery(), ProcessReport)
    return tuple(sorted(found, key=lambda report: report.name))


async def find_spans(bus: Bus, trace: str) -> tuple[Span, ...]:
    """Return the latest spans of all processes, of traces whose id begins so. As `survey`."""
    found = await _ask_all(bus, FindSpans(trace), FoundSpans)
    spans = [span for of_process in found for span in of_process.spans]
    return tuple(sorted(spans, key=lambda span: span.start_ns))


async def find_filters(bus: Bus) -> tuple[FilterRow, ...]:
    """Return what filters did in all processes, a row for each of them that has one. As `survey`."""
    found = await _ask_all(bus, FindFilters(), FoundFilters)
    return tuple(row for of_process in found for row in of_process.rows)


async def _ask_all(bus: Bus, query: Any, kind: type[T]) -> list[T]:
    listed = await bus.request(BROKER, ListProcesses(), returns=AgentList)
    found: list[T] = []

    async def ask(agent: str) -> None:
        try:
            found.append(await bus.request(agent, query, returns=kind, deadline=SURVEY_TIMEOUT))
        except AgentbusError:
            return

    async with anyio.create_task_group() as group:
        for agent in listed.agents:
            group.start_soon(ask, agent.name)
    return found
