"""What agents did between two surveys of a bus. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..routing import PROCESS
from ..telemetry import AgentReport
from .process import ProcessReport

__all__ = ["AgentRates", "handled", "rates"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRates:
    """One agent: rates and times of the interval, counts since it was spawned."""

    agent: str
    process: str
    pid: int
    requests_per_s: float
    """Requests that ended, with a reply or an error."""
    p50_s: float | None
    """Median time in the handler, in seconds, at most twice the true one; None without requests."""
    p99_s: float | None
    waiting: int
    """Messages in its mailbox."""
    requests: int
    errors: int
    reused_tokens: int
    prefilled_tokens: int
    lost_tokens: int
    """Of those prefilled, about how many the caller's last prompt had too, in another place."""
    saved_tokens: int
    """That prompts would have had more without filters."""
    left_out_tokens: int
    """Of those, what lossy filters have left out."""
    structured_answers: int
    """Its model's answers that were to hold a value of a type."""
    unparsable_answers: int
    """Those of them that held none."""


def handled(agent: AgentReport) -> int:
    """Return how many requests to an agent have ended."""
    return agent.replies + _errors(agent)


def rates(before: Iterable[ProcessReport], after: Iterable[ProcessReport]) -> list[AgentRates]:
    """Return what each agent did that is in both surveys, by name."""
    earlier = {process.name: process for process in before}
    found: list[AgentRates] = []
    for process in after:
        then = earlier.get(process.name)
        if then is not None:
            found += _of_process(then, process)
    return sorted(found, key=lambda row: (row.agent, row.process))


def _of_process(before: ProcessReport, after: ProcessReport) -> Iterator[AgentRates]:
    # By the process's own clock: how long the answers were under way does not matter.
    seconds = after.uptime_s - before.uptime_s
    earlier = {agent.name: agent for agent in before.bus.agents}
    for agent in after.bus.agents:
        then = earlier.get(agent.name)
        if then is None or seconds <= 0 or agent.name.startswith(PROCESS):
            continue
        times = agent.handle.since(then.handle)
        yield AgentRates(
            agent=agent.name,
            process=after.name,
            pid=after.pid,
            requests_per_s=(handled(agent) - handled(then)) / seconds,
            p50_s=times.quantile(0.5),
            p99_s=times.quantile(0.99),
            waiting=agent.waiting,
            requests=handled(agent),
            errors=_errors(agent),
            reused_tokens=agent.reused_tokens,
            prefilled_tokens=agent.prefilled_tokens,
            lost_tokens=agent.lost_tokens,
            saved_tokens=agent.saved_tokens,
            left_out_tokens=agent.left_out_tokens,
            structured_answers=agent.structured_answers,
            unparsable_answers=agent.unparsable_answers,
        )


def _errors(agent: AgentReport) -> int:
    return sum(agent.failures.values())
