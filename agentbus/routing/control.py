"""What processes and broker tell each other about who is where."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BROKER",
    "BUS",
    "MODEL",
    "PRESENCE",
    "PROCESS",
    "AgentList",
    "ListAgents",
    "ListProcesses",
    "Locate",
    "Location",
    "Presence",
    "Register",
    "Unregister",
]

BROKER = "$broker"
"""The broker's own address, in the process that is one."""
BUS = "$bus"
"""Each process's own address, for what concerns the link itself."""
MODEL = "$model."
"""What the addresses of agents that serve a model begin with."""
PRESENCE = "$presence"
"""The topic on which agents' coming and going is published."""
PROCESS = "$process."
"""What the address begins with of an agent that answers tools about its process; behind it stands
the process's name."""


@dataclass(frozen=True, slots=True)
class Register:
    """Take `name` for an agent in the asking process, which accepts links at `path`."""

    name: str
    path: str
    role: str
    slots: int = 0
    """Requests that it handles at once, if it is a member of the group `name`; else 0."""


@dataclass(frozen=True, slots=True)
class Unregister:
    """Let go of `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class Locate:
    """Where is the agent `name`? Answered with a `Location` or `NoResponder`."""

    name: str


@dataclass(frozen=True, slots=True)
class Location:
    """An agent's process and the socket where it accepts links."""

    name: str
    peer: str
    path: str
    role: str


@dataclass(frozen=True, slots=True)
class Presence:
    """An agent has come, or has gone with its process or by itself; published on `PRESENCE`."""

    name: str
    peer: str
    """The process that it is, or was, in."""
    present: bool


@dataclass(frozen=True, slots=True)
class ListAgents:
    """Who is on the bus? Answered with an `AgentList`."""


@dataclass(frozen=True, slots=True)
class ListProcesses:
    """Which agents answer about their processes? Answered with an `AgentList`."""


@dataclass(frozen=True, slots=True)
class AgentList:
    """Agents, by name."""

    agents: tuple[Location, ...]
