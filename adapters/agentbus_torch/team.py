"""How many threads a step is computed with, on a machine where others compute too.

The threads of one operation wait for the last of them. While another process has its core, all
others spin in vain: beside one busy process, two threads on two cores decode at less than half the
rate of one thread alone. Processor time says so: threads that compute, or spin, take all of the time
that passes, unless others had the cores meanwhile.

Finding out costs: a step with more threads than there are cores for takes up to a second. So where
the system says which cores are idle, threads are added only while there are cores for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

__all__ = ["Team"]

WINDOW_S: Final = 0.05
"""Steps of so much time are looked at together."""
MISSED: Final = 0.5
"""Cores less than there are threads that say that others have them."""
FIRST_PAUSE_S: Final = 1.0
"""How long it takes until more threads are tried; doubled each time that they were too many."""
LAST_PAUSE_S: Final = 16.0
LOOK_S: Final = 0.25
"""How long it takes until it is looked again whether there are cores for more."""


class Team:
    """The threads of one engine: all, or fewer while others need cores. Times are in seconds."""

    def __init__(self, most: int) -> None:
        """Begin with all.

        Args:
            most: threads where nobody else computes.
        """
        self._most = most
        self._threads = most
        self._wall = self._cpu = 0.0
        self._pause = FIRST_PAUSE_S
        self._grown = self._grows = 0.0
        self._begun = False

    def threads(self, now: float, cores: Callable[[], float | None] = lambda: None) -> int:
        """Return how many threads a step that begins now gets.

        Args:
            now: on any clock that only goes on.
            cores: how many this process could have lately, beside what others use; None where that
                is not known.
        """
        if not self._begun:
            self._begun = True
            self._take(self._allowed(self._most, cores()))
            self._grows = now + LOOK_S
        elif self._threads < self._most and now >= self._grows:
            wanted = self._threads + max(1, self._threads // 2)
            more = self._allowed(wanted, cores())
            if more > self._threads:
                self._take(more)
                self._grown, self._grows = now, now + self._pause
            else:
                self._grows = now + LOOK_S
        return self._threads

    def _allowed(self, wanted: int, cores: float | None) -> int:
        return wanted if cores is None else min(wanted, math.floor(cores + MISSED))

    def observe(self, now: float, wall: float, cpu: float) -> None:
        """Look at what all threads together have just computed in a step.

        Args:
            now: on any clock that only goes on.
            wall: how long it took.
            cpu: how long the process's threads were on processors meanwhile, together.
        """
        self._wall += wall
        self._cpu += cpu
        if self._wall < WINDOW_S:
            return
        missed = self._threads - self._cpu / self._wall
        self._wall = self._cpu = 0.0
        if missed > MISSED and self._threads > 1:
            too_many = now < self._grown + FIRST_PAUSE_S
            self._pause = min(2 * self._pause, LAST_PAUSE_S) if too_many else FIRST_PAUSE_S
            self._take(self._threads - max(1, round(missed)))
            self._grows = now + self._pause

    def _take(self, threads: int) -> None:
        self._threads = min(max(1, threads), self._most)
        self._wall = self._cpu = 0.0
