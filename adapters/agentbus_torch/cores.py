"""How many cores a process could have: those that are idle, and what it uses itself."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Cores"]

_SHORTEST_S: Final = 0.1
"""The system counts in hundredths of a second."""
_LONGEST_S: Final = 2.0
"""What was so long ago may be over."""
_IDLE: Final = slice(3, 5)
"""Idle, and waiting for a disk; in ticks of all cores together."""
_ALL: Final = slice(0, 8)
"""What is behind is counted before, too."""


class _Look(NamedTuple):
    at: float
    used: float
    """Seconds of processors that this process has used."""
    idle: int
    ticks: int


class Cores:
    """Looks at what this machine's cores do, as Linux tells it."""

    def __init__(self, told: Path = Path("/proc/stat")) -> None:
        """Begin to look; `told` is where the system tells it."""
        self._told = told
        self._last = self._look()
        self._found: float | None = None

    def available(self) -> float | None:
        """Return how many cores this process could have had since the last look; None if unknown.

        After a long time that is 0: look again soon. The first look is at all of the time before.
        """
        now = self._look()
        if now is None or self._last is None:
            return None
        passed = now.at - self._last.at
        if passed > _LONGEST_S and self._found is not None:
            self._found, self._last = 0.0, now
        elif passed >= _SHORTEST_S and now.ticks > self._last.ticks:
            share = (now.idle - self._last.idle) / (now.ticks - self._last.ticks)
            idle = share * (os.cpu_count() or 1)
            self._found = idle + (now.used - self._last.used) / passed
            self._last = now
        return self._found

    def _look(self) -> _Look | None:
        try:
            with self._told.open("rb") as file:
                ticks = [int(number) for number in file.readline(4096).split()[1:]]
        except (OSError, ValueError):
            return None
        used = time.process_time()
        return _Look(time.perf_counter(), used, sum(ticks[_IDLE]), sum(ticks[_ALL]))
