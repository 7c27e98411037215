"""Steps of a workflow, as far as they tell when a prompt's KV is needed again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Owner", "Step", "WaitsFor", "steps_to_execution"]

Owner = tuple[bytes, str]
"""A namespace, and in it the name of who makes calls one after the other: an agent's line of work.
Its next call is taken to replace its last one."""


class Step(StrEnum):
    """How a call left its owner, which is what its next call depends on."""

    UNKNOWN = "unknown"
    TOOL = "tool"
    """The answer called a tool: the owner goes on as soon as the result is there."""
    REPLY = "reply"
    """The owner's turn is over: somebody else, a user perhaps, has to speak first."""
    FIRST_REPLY = "first_reply"
    """The same of an owner that has never come back from a reply. It may have done its work, as a
    sub-agent that has reported. A policy finds that out; nobody needs to say it."""
    AHEAD = "ahead"
    """Nothing was answered: the prompt was computed ahead of the owner's call, which is to come."""


@dataclass(frozen=True, slots=True)
class WaitsFor:
    """What an agent of a step graph waits for: all of `agents` (a join), or any one of them."""

    agents: frozenset[str]
    all: bool = True


def steps_to_execution(graph: Mapping[str, WaitsFor], running: Iterable[str]) -> dict[str, int]:
    """Return how many steps away the next call of each agent is; 0 for those that run now.

    A join waits for the furthest of its agents, an alternative for the nearest. Agents that
    nothing running leads to are left out. After KVFlow (Pan et al., 2025).
    """
    steps = dict.fromkeys(running, 0)
    step = 0
    while True:
        step += 1
        reached = {
            agent: step
            for agent, waits in graph.items()
            if agent not in steps and waits.agents and _is_met(waits, steps)
        }
        if not reached:
            return steps
        steps |= reached


def _is_met(waits: WaitsFor, steps: Mapping[str, int]) -> bool:
    return waits.agents <= steps.keys() if waits.all else not waits.agents.isdisjoint(steps)
