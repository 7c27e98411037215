"""What processes and broker tell each other about who is where."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "BROKER",
    "BUS",
    "MODEL",
    "PRESENCE",
    "PROCESS",
    "AgentList",
    "FindContext",
    "Join",
    "Joined",
    "ListAgents",
    "ListProcesses",
    "Locate",
    "Location",
    "Presence",
    "Refused",
    "Register",
    "Route",
    "ShowGrant",
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
class Join:
    """A process joins, as the holder of a token if it has one. Answered with a `Joined`."""

    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Joined:
    """What a process needs to know of the policy; sent anew when another policy is loaded."""

    guarded: bool
    """Whether there is a policy: if so, peers are taken at their grants alone."""
    key: bytes = field(default=b"", repr=False)
    """With which grants for this process are sealed."""
    epoch: int = 0
    clock: float = 0.0
    """The broker's clock as it sends this; grants end by it."""


@dataclass(frozen=True, slots=True)
class FindContext:
    """Said to a process that referred to a context: the reply is to bring it."""

    root: bytes


@dataclass(frozen=True, slots=True)
class ShowGrant:
    """Said to a process of whose agent something will be asked: the broker's leave for it."""

    grant: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """Said to a process whose message on a topic was not passed on, or that gets none any more."""

    principal: str
    operation: str
    source: str
    """The agent that published; empty for a program, and for subscriptions."""
    subject: str


@dataclass(frozen=True, slots=True)
class Register:
    """Take `name` for an agent in the asking process, which accepts links at `path`."""

    name: str
    path: str
    role: str
    slots: int = 0
    """Requests that it handles at once, if it is a member of the group `name`; else 0."""
    key: str = ""
    """The process's public key, if `path` is a url of tcp."""


@dataclass(frozen=True, slots=True)
class Unregister:
    """Let go of `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class Locate:
    """Where is the agent `name`? Answered with a `Route` or `NoResponder`."""

    name: str
    source: str = ""
    """The agent that wants to ask it; empty for a program's own requests."""


@dataclass(frozen=True, slots=True)
class Location:
    """An agent's process and the socket where it accepts links."""

    name: str
    peer: str
    path: str
    role: str


@dataclass(frozen=True, slots=True)
class Route:
    """How to reach an agent."""

    location: Location
    key: str = ""
    """The public key of its process; empty if it has none."""
    grant: bytes = field(default=b"", repr=False)
    """To be shown there before anything is asked; empty if there is no policy."""
    seconds: float = 0.0
    """How long the grant is good for."""
    principal: str = ""
    """Who that process is, as the broker has found; empty for the broker's own."""


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
