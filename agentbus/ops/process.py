"""The agent that answers tools about its process, and the pages that the process serves."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from http import HTTPStatus
from time import monotonic

from ..client import Agent, Bus, Call, handler
from ..errors import NoResponder
from ..filters import FilterRow
from ..routing import PROCESS
from ..telemetry import BusReport, Span
from .describe import AgentDescription, describe_handlers
from .exposition import exposition
from .http import Page, serve_http

__all__ = [
    "OFF",
    "DescribeAgent",
    "FindFilters",
    "FindSpans",
    "FoundFilters",
    "FoundSpans",
    "ProcessAgent",
    "ProcessQuery",
    "ProcessReport",
    "operate",
    "process_agent_name",
]

OFF = "off"
"""The metrics address of a process that serves none."""


@dataclass(frozen=True, slots=True)
class ProcessQuery:
    """How is the process? Answered with a `ProcessReport`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessReport:
    """One process, as it is now."""

    name: str
    pid: int
    uptime_s: float
    """Seconds since it joined the bus. Clocks of several machines differ, so no moment is named."""
    metrics: str
    """The url of its metrics; empty if it serves none."""
    draining: bool
    bus: BusReport


@dataclass(frozen=True, slots=True)
class DescribeAgent:
    """What does the agent `name` of this process handle? Answered with an `AgentDescription`."""

    name: str


@dataclass(frozen=True, slots=True)
class FindSpans:
    """Which spans do you keep of traces whose id begins so? Answered with `FoundSpans`."""

    trace: str


@dataclass(frozen=True, slots=True)
class FoundSpans:
    """The latest spans of one process, the oldest first."""

    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class FindFilters:
    """What did filters do to what models of your process read? Answered with `FoundFilters`."""


@dataclass(frozen=True, slots=True)
class FoundFilters:
    """The balance of each filter on each edge, of one process."""

    rows: tuple[FilterRow, ...]


class ProcessAgent(Agent):
    """Answers questions about the process that it is in."""

    def __init__(self, bus: Bus, metrics: str) -> None:
        self._bus = bus
        self._metrics = metrics
        self._began = monotonic()

    @handler
    async def report(self, query: ProcessQuery, call: Call) -> ProcessReport:
        """Say what the process does and has counted."""
        return ProcessReport(
            name=self._bus.name,
            pid=os.getpid(),
            uptime_s=monotonic() - self._began,
            metrics=self._metrics,
            draining=self._bus.draining,
            bus=self._bus.report(),
        )

    @handler
    async def spans(self, what: FindSpans, call: Call) -> FoundSpans:
        """Return the spans that are asked for."""
        return FoundSpans(tuple(self._bus.spans(what.trace)))

    @handler
    async def filters(self, what: FindFilters, call: Call) -> FoundFilters:
        """Return what filters did."""
        return FoundFilters(self._bus.filter_rows())

    @handler
    async def describe(self, what: DescribeAgent, call: Call) -> AgentDescription:
        """Say what an agent handles."""
        local = {location.name: location for location in self._bus.local_agents()}
        if what.name not in local:
            raise NoResponder(what.name)
        handlers = describe_handlers(self._bus.handlers(what.name))
        return AgentDescription(what.name, local[what.name].role, handlers)


def process_agent_name(process: str) -> str:
    """Return the address of the agent that answers for a process."""
    return PROCESS + process


@asynccontextmanager
async def operate(bus: Bus, metrics: str) -> AsyncGenerator[str]:
    """Let a process be watched until the block ends; yields the url of its metrics.

    `metrics` is `HOST:PORT`, or `off` for no metrics.

    Raises:
        ConfigError: the address cannot be used.
    """
    serving = nullcontext("") if metrics == OFF else serve_http(metrics, _pages(bus))
    async with serving as base:
        url = f"{base}/metrics" if base else ""
        await bus.spawn(ProcessAgent(bus, url), name=process_agent_name(bus.name))
        yield url


def _pages(bus: Bus) -> dict[str, Callable[[], Page]]:
    def metrics() -> Page:
        return Page(exposition(bus.report()), "text/plain; version=0.0.4; charset=utf-8")

    def health() -> Page:
        if bus.draining:
            return Page(b"draining\n", status=HTTPStatus.SERVICE_UNAVAILABLE)
        return Page(b"ok\n")

    return {"/metrics": metrics, "/healthz": health}
