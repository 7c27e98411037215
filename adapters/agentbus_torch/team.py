"""How many threads a step is computed with, on a machine where others compute too.

The threads of one operation wait for the last of them. While something else has its core, all others
spin in vain: beside one busy process, two threads on two cores decode at less than half the rate of
one thread alone. Processor time says so: threads that compute, or spin, take all of the time that
passes, unless others had the cores meanwhile.

Finding out costs: a step with more threads than there are cores for takes up to a second. So where
the system says which cores are idle, threads are added only while there are cores for them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["Team"]

WINDOW_S: Final = 0.05
"""What was computed in so much time is looked at together; who computed within it computes still."""
MISSED: Final = 0.5
"""Cores less than there are threads that say that others have them."""
FIRST_PAUSE_S: Final = 1.0
"""How long it takes until more threads are tried; doubled each time that they were too many."""
LAST_PAUSE_S: Final = 16.0
LOOK_S: Final = 0.25
"""How long it takes until it is looked again whether there are cores for more."""


@dataclass(slots=True)
class _Engine:
    """One that computes, or did a moment ago."""

    most: int
    threads: int = 0
    """While it computes."""
    ended: float = 0.0


class Team:
    """The threads of a process's engines, which share them: all, or fewer while others need cores.

    Times are in seconds: `now` on any clock that only goes on, `cpu` what all threads of the process
    have been on processors for. For several threads at once.
    """

    def __init__(self, cores: Callable[[], float | None] = lambda: None) -> None:
        """Begin with none.

        Args:
            cores: how many this process could have lately, beside what others use; None where that
                is not known.
        """
        self._cores = cores
        self._most = self._threads = 0
        self._engines: dict[object, _Engine] = {}
        self._now = self._cpu = 0.0
        self._wall = self._given = self._used = 0.0
        """Time in which engines computed, all their threads' time, and what was used of it."""
        self._pause = FIRST_PAUSE_S
        self._grown = self._grows = 0.0
        self._lock = threading.Lock()

    def begin(self, engine: object, most: int, now: float, cpu: float) -> int:
        """Return how many threads compute a step of an engine that begins now.

        Args:
            most: threads where nobody else computes.
        """
        with self._lock:
            self._count(now, cpu)
            if most > self._most:
                self._most = most
                self._take(self._allowed(most))
                self._grows = now + LOOK_S
            self._engines = {
                name: one
                for name, one in self._engines.items()
                if one.threads or now < one.ended + WINDOW_S
            }
            self._engines[engine] = own = _Engine(most)
            self._grow(now)
            own.threads = self._share(most)
            return own.threads

    def end(self, engine: object, now: float, cpu: float) -> None:
        """The step that the engine began is computed."""
        with self._lock:
            self._count(now, cpu)
            self._engines[engine].threads, self._engines[engine].ended = 0, now
            if self._wall >= WINDOW_S:
                self._look(now)

    def _count(self, now: float, cpu: float) -> None:
        if threads := sum(engine.threads for engine in self._engines.values()):
            passed = now - self._now
            self._wall += passed
            self._given += passed * threads
            self._used += cpu - self._cpu
        self._now, self._cpu = now, cpu

    def _grow(self, now: float) -> None:
        most = max(engine.most for engine in self._engines.values())
        if self._threads >= most or now < self._grows:
            return
        more = self._allowed(min(most, self._threads + max(1, self._threads // 2)))
        if more > self._threads:
            self._take(more)
            self._grown, self._grows = now, now + self._pause
        else:
            self._grows = now + LOOK_S

    def _share(self, most: int) -> int:
        """Return what one has that takes so many: who takes less than others leaves them the rest."""
        left, mosts = self._threads, sorted(engine.most for engine in self._engines.values())
        for number, other in enumerate(mosts):
            fair = left // (len(mosts) - number)
            if other >= fair:
                return max(1, min(most, fair))
            left -= other
        return most

    def _allowed(self, wanted: int) -> int:
        cores = self._cores()
        return wanted if cores is None else min(wanted, math.floor(cores + MISSED))

    def _look(self, now: float) -> None:
        missed, had = (self._given - self._used) / self._wall, self._used / self._wall
        self._wall = self._given = self._used = 0.0
        if missed > MISSED and self._threads > 1:
            too_many = now < self._grown + FIRST_PAUSE_S
            self._pause = min(2 * self._pause, LAST_PAUSE_S) if too_many else FIRST_PAUSE_S
            self._take(max(round(had), self._threads - round(missed)))
            self._grows = now + self._pause

    def _take(self, threads: int) -> None:
        self._threads = min(max(1, threads), self._most)
        self._wall = self._given = self._used = 0.0
