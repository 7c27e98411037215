"""The broker's rules: who has which name, and where. Pure: no I/O, no clock."""

from __future__ import annotations

from collections import Counter

from ..errors import NameTaken, NoResponder, TooLarge
from ..routing import Location
from .groups import Group

__all__ = ["Directory"]

_WAITING = 10_000
"""Requests that wait for one group; more are refused with `MailboxFull`."""
MAX_NAMES = 10_000
"""Names that one process may have."""


class Directory:
    """Agents by name. A name belongs to one process, or to the members of one group."""

    __slots__ = ("_agents", "_counts", "_groups", "_home", "_members", "_waiting")

    def __init__(self, home: Location, waiting: int = _WAITING) -> None:
        self._home = home
        """Where the broker is: what is asked of a group is asked of it."""
        self._agents: dict[str, Location] = {home.name: home}
        self._groups: dict[str, Group] = {}
        self._members: dict[tuple[str, str], Location] = {}
        self._waiting = waiting
        self._counts: Counter[str] = Counter()
        """Names by process."""

    def register(self, location: Location, slots: int = 0) -> list[tuple[object, str]]:
        """Note where an agent is; with `slots`, that it is a member of the group of its name.

        Returns requests that waited for the group and are given to a process now.

        Raises:
            NameTaken: another process has an agent of that name, or it is a group and this one no
                member, or the other way about.
            TooLarge: the process has too many names.
        """
        name, peer = location.name, location.peer
        present = self._agents.get(name)
        group = self._groups.get(name)
        if slots:
            if present is not None and group is None:
                raise NameTaken(name)
            self._count(peer, is_new=(name, peer) not in self._members)
            group = self._groups.setdefault(name, Group(name, self._waiting))
            self._agents[name] = Location(name, self._home.peer, self._home.path, location.role)
            self._members[name, peer] = location
            return group.join(peer, slots)
        if group is not None or (present is not None and present.peer != peer):
            raise NameTaken(name)
        self._count(peer, is_new=present is None)
        self._agents[name] = location
        return []

    def holds(self, name: str, peer: str) -> bool:
        """Tell whether a process has an agent of that name, or is a member of that group."""
        present = self._agents.get(name)
        is_group = name in self._groups
        is_own = not is_group and present is not None and present.peer == peer
        return is_own or (name, peer) in self._members

    def unregister(self, name: str, peer: str) -> list[object]:
        """Forget an agent, if it is that process's; returns requests that nobody will take."""
        group = self._groups.get(name)
        if group is not None:
            return self._leave(name, group, peer)
        present = self._agents.get(name)
        if present is not None and present.peer == peer:
            del self._agents[name]
            self._counts[peer] -= 1
        return []

    def locate(self, name: str) -> Location:
        """Return where an agent is.

        Raises:
            NoResponder: no agent has the name.
        """
        try:
            return self._agents[name]
        except KeyError:
            raise NoResponder(name) from None

    def assign(self, name: str, request: object) -> str | None:
        """Return the process that a request is carried on to; None if it waits for a group.

        Raises:
            NoResponder: no agent has the name.
            MailboxFull: too many wait for the group already.
        """
        group = self._groups.get(name)
        return self.locate(name).peer if group is None else group.offer(request)

    def forget(self, name: str, request: object) -> None:
        """Nobody waits for the reply to a request that waits for a group."""
        if name in self._groups:
            self._groups[name].forget(request)

    def finished(self, name: str, process: str) -> tuple[object, str] | None:
        """A request that was carried on has ended; returns who is given what now."""
        group = self._groups.get(name)
        return None if group is None else group.finished(process)

    def peer_lost(self, peer: str) -> tuple[list[Location], list[object]]:
        """Forget all agents of a process that went away.

        Returns where they were, and requests that waited and that nobody will take.
        """
        lost = [location for location in self._agents.values() if location.peer == peer]
        for location in lost:
            del self._agents[location.name]
        orphans: list[object] = []
        for name, group in tuple(self._groups.items()):
            if peer in group:
                lost.append(self._members[name, peer])
                orphans += self._leave(name, group, peer)
        self._counts.pop(peer, None)
        return lost, orphans

    def agents(self) -> tuple[Location, ...]:
        """Return all agents by name."""
        return tuple(self._agents[name] for name in sorted(self._agents))

    def _count(self, peer: str, *, is_new: bool) -> None:
        count = self._counts[peer] + is_new
        if count > MAX_NAMES:
            raise TooLarge(f"the number of names of {peer}", count, MAX_NAMES)
        self._counts[peer] = count

    def _leave(self, name: str, group: Group, peer: str) -> list[object]:
        if self._members.pop((name, peer), None) is not None:
            self._counts[peer] -= 1
        orphans = group.leave(peer)
        if not group:
            del self._groups[name], self._agents[name]
        return orphans
