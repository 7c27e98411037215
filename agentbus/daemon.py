"""The broker process: a bus that others join, with the directory of who is where."""

from __future__ import annotations

import contextlib
from pathlib import Path

from .broker import Directory
from .client import Agent, Bus, Call, Relay, Requester, handler
from .errors import ConfigError
from .routing import (
    BROKER,
    PRESENCE,
    PROCESS,
    AgentList,
    ListAgents,
    ListProcesses,
    Locate,
    Location,
    Presence,
    Register,
    Unregister,
)

__all__ = ["BrokerAgent", "start_broker"]


class BrokerAgent(Agent):
    """Answers where agents are. Its rules are `broker.Directory`'s."""

    def __init__(self, directory: Directory, relay: Relay) -> None:
        self._directory = directory
        self._relay = relay

    @handler
    async def register(self, what: Register, call: Call) -> None:
        """Take a name for an agent of the asking process."""
        if what.slots < 0:
            raise ConfigError("slots", f"must be 0 or more, not {what.slots}")
        location = Location(what.name, call.peer, what.path, what.role)
        for request, process in self._directory.register(location, what.slots):
            self._relay.give(request, process)
        _tell(call, Presence(what.name, call.peer, present=True))

    @handler
    async def unregister(self, what: Unregister, call: Call) -> None:
        """Let go of a name."""
        for request in self._directory.unregister(what.name, call.peer):
            self._relay.refuse(request)
        _tell(call, Presence(what.name, call.peer, present=False))

    @handler
    async def locate(self, what: Locate, call: Call) -> Location:
        """Say where an agent is."""
        return self._directory.locate(what.name)

    @handler
    async def list_agents(self, what: ListAgents, call: Call) -> AgentList:
        """Say who is on the bus, without the broker itself and what is there for tools."""
        found = self._directory.agents()
        return AgentList(
            tuple(a for a in found if a.name != BROKER and not a.name.startswith(PROCESS))
        )

    @handler
    async def list_processes(self, what: ListProcesses, call: Call) -> AgentList:
        """Say which processes can be asked how they are."""
        found = self._directory.agents()
        return AgentList(tuple(a for a in found if a.name.startswith(PROCESS)))


async def start_broker(bus: Bus) -> None:
    """Make a bus that listens the home of other processes, which find its agents so far, too."""
    directory = Directory(Location(BROKER, bus.name, bus.listens_at, ""))
    relay = bus.relay(directory)
    for agent in bus.local_agents():
        directory.register(agent)
    own = Path(bus.listens_at)

    def peer_lost(peer: str) -> None:
        lost, orphans = directory.peer_lost(peer)
        _sweep(own, lost)
        for location in lost:
            _tell(bus, Presence(location.name, location.peer, present=False))
        for request in orphans:
            relay.refuse(request)

    bus.on_peer_lost(peer_lost)
    await bus.spawn(BrokerAgent(directory, relay), name=BROKER)


def _tell(publisher: Requester, presence: Presence) -> None:
    """Publish that an agent has come or gone; what is there for tools alone, nobody waits for."""
    if not presence.name.startswith((BROKER, PROCESS)):
        publisher.publish_nowait(PRESENCE, presence)


def _sweep(own: Path, lost: list[Location]) -> None:
    """Remove the sockets that a killed process left beside the broker's own, and nothing else."""
    for path in {Path(location.path) for location in lost} - {own}:
        with contextlib.suppress(OSError):
            if path.parent == own.parent and path.is_socket():
                path.unlink()
