"""Queue groups: several processes behind one name, each given only what it has room for.

A member says how many requests it handles at once. A request goes to the member with the most room;
where none has any it waits here, in order, and goes to the first that has finished one. Pure: which
request is given to whom, not how.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import MailboxFull, NoResponder

__all__ = ["Group"]


@dataclass(slots=True)
class _Member:
    slots: int
    busy: int = 0
    last: int = 0
    """When it was given something last, as a number that grows."""


class Group:
    """The members of one group and the requests that wait for one of them."""

    __slots__ = ("_given", "_limit", "_members", "_name", "_waiting")

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._members: dict[str, _Member] = {}
        self._waiting: dict[object, None] = {}
        """In the order in which they came."""
        self._given = 0

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, process: str) -> bool:
        return process in self._members

    def join(self, process: str, slots: int) -> list[tuple[object, str]]:
        """Add a member that handles `slots` requests at once; returns what it is given now."""
        self._members[process] = _Member(slots)
        given = []
        while self._waiting and (found := self._choose()) is not None:
            given.append((self._take(), found))
        return given

    def leave(self, process: str) -> list[object]:
        """Forget a member. Returns requests that wait for nobody any more, if it was the last."""
        self._members.pop(process, None)
        if self._members:
            return []
        orphans = list(self._waiting)
        self._waiting.clear()
        return orphans

    def offer(self, request: object) -> str | None:
        """Return the process that a request is given to; None if it waits here.

        Raises:
            NoResponder: the group has no members.
            MailboxFull: too many wait already.
        """
        if not self._members:
            raise NoResponder(self._name)
        # What waits goes first: while something does, nobody has room.
        chosen = None if self._waiting else self._choose()
        if chosen is None:
            if len(self._waiting) >= self._limit:
                raise MailboxFull(self._name, self._limit)
            self._waiting[request] = None
        return chosen

    def finished(self, process: str) -> tuple[object, str] | None:
        """Take back the room of a request that has ended; returns who is given what now."""
        member = self._members.get(process)
        if member is None:
            return None
        member.busy -= 1
        if not self._waiting or (chosen := self._choose()) is None:
            return None
        return self._take(), chosen

    def forget(self, request: object) -> None:
        """Let go of a request that waits; harmless if it does not."""
        self._waiting.pop(request, None)

    def _take(self) -> object:
        request = next(iter(self._waiting))
        del self._waiting[request]
        return request

    def _choose(self) -> str | None:
        """Give one request to the member with the most room, the longest unused of equal ones."""
        free = [name for name, member in self._members.items() if member.busy < member.slots]
        if not free:
            return None

        def rank(name: str) -> tuple[int, int]:
            member = self._members[name]
            return member.busy - member.slots, member.last

        chosen = min(free, key=rank)
        self._given += 1
        self._members[chosen].busy += 1
        self._members[chosen].last = self._given
        return chosen
