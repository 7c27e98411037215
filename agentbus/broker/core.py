"""The broker's rules: who has which name, and where. Pure: no I/O, no clock."""

from __future__ import annotations

from ..errors import NameTaken, NoResponder
from ..routing import Location

__all__ = ["Directory"]


class Directory:
    """Agents by name. A name belongs to one process until it lets go or goes away."""

    __slots__ = ("_agents",)

    def __init__(self) -> None:
        self._agents: dict[str, Location] = {}

    def register(self, location: Location) -> None:
        """Note where an agent is.

        Raises:
            NameTaken: another process has an agent of that name.
        """
        present = self._agents.get(location.name)
        if present is not None and present.peer != location.peer:
            raise NameTaken(location.name)
        self._agents[location.name] = location

    def unregister(self, name: str, peer: str) -> None:
        """Forget an agent, if it is that process's."""
        present = self._agents.get(name)
        if present is not None and present.peer == peer:
            del self._agents[name]

    def locate(self, name: str) -> Location:
        """Return where an agent is.

        Raises:
            NoResponder: no agent has the name.
        """
        try:
            return self._agents[name]
        except KeyError:
            raise NoResponder(name) from None

    def peer_lost(self, peer: str) -> list[Location]:
        """Forget all agents of a process that went away; returns where they were."""
        lost = [location for location in self._agents.values() if location.peer == peer]
        for location in lost:
            del self._agents[location.name]
        return lost

    def agents(self) -> tuple[Location, ...]:
        """Return all agents by name."""
        return tuple(self._agents[name] for name in sorted(self._agents))
