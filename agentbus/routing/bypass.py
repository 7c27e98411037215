"""Publishing past the broker: what is said about it, and the broker's book of who does it.

A process that publishes much on one topic is told who listens, sends there itself, and the broker
leaves these listeners out of what it passes on for that publisher. If all listeners get it that
way, the publisher need not send to the broker at all, for as long as its *cover* holds: a lease
(Gray and Cheriton, 1989) that the publisher renews. A subscription has begun only when no cover
holds that does not know of it: the broker takes such covers back and waits until the publishers have said
that they know, or the leases have ended. Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = [
    "COVER_SECONDS",
    "MAX_DIRECT",
    "MAX_WAYS",
    "MOVE_SECONDS",
    "Audience",
    "Bypasses",
    "Fence",
    "FindListeners",
    "LeaveOut",
    "Left",
    "Listen",
    "Listener",
    "PassBy",
    "Passed",
    "Readmit",
    "Renew",
    "Renewed",
    "Uncover",
    "Uncovered",
]

COVER_SECONDS = 1.0
"""How long a cover holds that is not renewed: the longest that a subscription may have to wait for
a publisher that does not answer."""
MOVE_SECONDS = 60.0
"""How long a listener may take to read what came before it moves. With more it loses what was
published meanwhile, and the broker goes on to pass on to it."""
MAX_DIRECT = 8
"""Processes that one publisher sends one topic to itself; the broker reaches more with less."""
MAX_WAYS = 256
"""Pairs of publisher and topic that one broker keeps in its book; and topics of one publisher."""


@dataclass(frozen=True, slots=True)
class FindListeners:
    """Asked of the broker: which processes listen to a topic? Answered with an `Audience`."""

    topic: str


@dataclass(frozen=True, slots=True)
class Listener:
    """A process and where it accepts links: a socket, or a url with its public key."""

    process: str
    path: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Audience:
    """All processes that listen to a topic; none if the broker goes on to pass it on."""

    processes: tuple[Listener, ...] = ()


@dataclass(frozen=True, slots=True)
class PassBy:
    """Told the broker: leave a listener out of what follows from here on that topic.

    Answered with `Passed` once all that came before is where the listener reads it.
    """

    topic: str
    process: str


@dataclass(frozen=True, slots=True)
class Passed:
    """The broker's answer to `PassBy`."""

    turn: int
    """Counts what the broker accepted; 0 if the process does not listen, and nothing has changed."""
    cover: int = 0
    """The number of the publisher's cover of the topic; 0 if it has none."""


@dataclass(frozen=True, slots=True)
class Readmit:
    """Told the broker: pass what follows on that topic on to these listeners again."""

    topic: str
    processes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Renew:
    """Asked of the broker: which of these topics may be kept from it for longer?"""

    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Renewed:
    """The covers that hold from the moment at which the question was sent, by topic."""

    covers: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listen:
    """Asked of a process by the broker: where do you accept links? Answered with a `Listener`."""


@dataclass(frozen=True, slots=True)
class Fence:
    """Said to a process by the broker, which wants to know when what came before was taken."""


@dataclass(frozen=True, slots=True)
class Uncover:
    """Told a publisher: covers of that topic up to this number do not hold any more."""

    topic: str
    cover: int


@dataclass(frozen=True, slots=True)
class LeaveOut:
    """Told a publisher: a process does not listen to that topic any more.

    The publisher has it readmitted as it sends it nothing any more, in case that it comes back.
    """

    topic: str
    process: str
    turn: int
    """Of the `Passed` that this ends."""


P = TypeVar("P", bound=Hashable)
"""A process at the other end of a link."""


@dataclass(slots=True)
class _Way(Generic[P]):
    passed: dict[P, int] = field(default_factory=dict)
    """Listeners that the publisher sends to itself, with their turns."""
    leaving: set[P] = field(default_factory=set)
    """Those that do not listen any more, of which the publisher has not said yet that it knows."""
    cover: int = 0
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class Uncovered(Generic[P]):
    """A cover that was taken back, and the moment at which its publisher knows by itself."""

    publisher: P
    topic: str
    cover: int
    until: float


@dataclass(frozen=True, slots=True)
class Left(Generic[P]):
    """A listener that is none any more."""

    publisher: P
    topic: str
    listener: P
    turn: int


class Bypasses(Generic[P]):
    """Who publishes what past the broker, and to whom."""

    __slots__ = ("_last", "_ways")

    def __init__(self) -> None:
        self._ways: dict[tuple[P, str], _Way[P]] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._ways)

    def passed(self, publisher: P, topic: str) -> Collection[P]:
        """Return the listeners that get a publisher's messages on a topic without the broker."""
        way = self._ways.get((publisher, topic))
        return () if way is None else way.passed.keys()

    def pass_by(self, publisher: P, topic: str, listener: P) -> int:
        """Leave a listener out from here on; returns its turn, or 0 if there is no room for that."""
        way = self._ways.get((publisher, topic)) or _Way()
        is_new = not way.passed and way.until == 0.0
        if len(way.passed) >= MAX_DIRECT or (is_new and len(self._ways) >= MAX_WAYS):
            return 0
        self._ways[publisher, topic] = way
        self._last += 1
        way.passed[listener] = self._last
        return self._last

    def readmit(self, publisher: P, topic: str, listeners: Collection[P]) -> None:
        """Pass on to listeners again; the publisher has no cover any more, and says so itself."""
        way = self._ways.get((publisher, topic))
        if way is not None:
            way.until = 0.0
            for listener in listeners:
                way.passed.pop(listener, None)
            self._prune(0.0)

    def cover(self, publisher: P, topic: str, audience: Collection[P], now: float) -> int:
        """Return the number of a cover that holds from `now`, or 0 if somebody needs the broker."""
        way = self._ways.get((publisher, topic))
        if way is None or not way.passed.keys() >= set(audience):
            return 0
        self._last += 1
        way.cover, way.until = self._last, now + COVER_SECONDS
        return self._last

    def changed(
        self, audience: Callable[[P, str], Collection[P]], now: float
    ) -> tuple[list[Uncovered[P]], list[Left[P]]]:
        """Look at all ways after subscriptions changed.

        Args:
            audience: returns who a publisher's messages on a topic are for.
            now: the clock that covers end by.

        Returns:
            Covers that do not hold any more, of which their publishers are to be told before those
            who subscribed are; and who is not a listener any more, but left out until the publisher
            has it readmitted.
        """
        uncovered: list[Uncovered[P]] = []
        left: list[Left[P]] = []
        for (publisher, topic), way in self._ways.items():
            present = set(audience(publisher, topic))
            if way.until > now and not way.passed.keys() >= present:
                uncovered.append(Uncovered(publisher, topic, way.cover, way.until))
                way.until = 0.0
            gone = way.passed.keys() - present
            new = gone - way.leaving
            left += [Left(publisher, topic, listener, way.passed[listener]) for listener in new]
            # One that comes back meanwhile is still sent to.
            way.leaving = gone
        self._prune(now)
        return uncovered, left

    def forget(self, process: P) -> list[Left[P]]:
        """Forget a process that went away; returns where it is no listener any more."""
        self._ways = {key: way for key, way in self._ways.items() if key[0] != process}
        left: list[Left[P]] = []
        for (publisher, topic), way in self._ways.items():
            turn = way.passed.pop(process, 0)
            if turn:
                left.append(Left(publisher, topic, process, turn))
        return left

    def _prune(self, now: float) -> None:
        """Drop ways to nobody, but not while a publisher may think that all hear it."""
        self._ways = {key: way for key, way in self._ways.items() if way.passed or way.until > now}
