"""Asks all processes of a bus how they are."""

from __future__ import annotations

import anyio

from ..client import Bus
from ..errors import AgentbusError
from ..routing import BROKER, AgentList, ListProcesses
from .process import ProcessQuery, ProcessReport

__all__ = ["SURVEY_TIMEOUT", "survey"]

SURVEY_TIMEOUT = 2.0
"""Seconds for a process to answer; one that computes does not look at its links meanwhile."""


async def survey(bus: Bus) -> tuple[ProcessReport, ...]:
    """Return what each process on a bus says about itself, by name.

    A process that does not answer in time is left out.

    Raises:
        NoResponder, PeerLost: there is no broker to say which processes there are.
    """
    listed = await bus.request(BROKER, ListProcesses(), returns=AgentList)
    found: list[ProcessReport] = []

    async def ask(agent: str) -> None:
        try:
            report = await bus.request(
                agent, ProcessQuery(), returns=ProcessReport, deadline=SURVEY_TIMEOUT
            )
        except AgentbusError:
            return
        found.append(report)

    async with anyio.create_task_group() as group:
        for agent in listed.agents:
            group.start_soon(ask, agent.name)
    return tuple(sorted(found, key=lambda report: report.name))
