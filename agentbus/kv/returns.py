"""When owners come back: learned from the times it took so far, and judged by age.

Times are in calls. Of those who wait, how long they have waited already counts too: else who
never comes back would never be learned from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from .steps import Owner

__all__ = ["Returns"]

_BUCKETS = 48
"""Ages up to 2 ** 23.5 calls are told apart, two buckets to an octave."""
_EDGES = (0.0, *(2 ** (n / 2) for n in range(_BUCKETS)))
_PRIOR_RETURNS = 2.0
_PRIOR_EXPONENT = 0.5
_PRIOR_AT_RISK = 20.0
"""How many observed waits a bucket needs to count as much as the fitted curve."""
_STALE = 8
"""A table is computed anew when an eighth more was seen, or an eighth more time has gone."""


def _bucket(age: int) -> int:
    return 0 if age <= 1 else min(_BUCKETS - 1, int(2 * math.log2(age)) + 1)


class Returns:
    """How soon owners call again who were left in one kind of step.

    The chance that one comes back in a call, given that it has not for some time, is estimated
    per bucket of ages as actuaries do (those still waiting leave the risk set at their age), and
    drawn towards a power law fitted to all of it where little was seen. What keeping KV of a
    certain age is worth is the Gittins index of that wait: the most returns per call of keeping
    that any plan of when to give up can get. With a falling chance it is the chance itself, and
    where owners come back after a pause of some length, it rises before.
    """

    def __init__(self) -> None:
        self._came = [0] * _BUCKETS
        self._waiting: dict[Owner, int] = {}
        self._returns = 0
        self._log_waits = 0.0
        self._table: Sequence[float] = ()
        self._next_count = 0
        self._next_time = 0

    def wait(self, owner: Owner, now: int) -> None:
        """Note that an owner was left."""
        self._waiting[owner] = now

    def forget(self, owner: Owner) -> None:
        """Note nothing of an owner who waits: it is not watched any more."""
        self._waiting.pop(owner, None)

    def come(self, owner: Owner, now: int) -> None:
        """Note that an owner calls again, if it was waiting."""
        since = self._waiting.pop(owner, None)
        if since is None:
            return
        self._came[_bucket(now - since)] += 1
        self._returns += 1
        self._log_waits += math.log1p(now - since)

    def worth(self, age: int, now: int) -> float:
        """Return the returns to be had per call of keeping, from the age of `age` calls on."""
        if not self._table or self._returns >= self._next_count or now >= self._next_time:
            self._table = _gittins(self._hazards(now))
            self._next_count = self._returns + 1 + self._returns // _STALE
            self._next_time = now + 4 + now // _STALE
        return self._table[_bucket(age)]

    def _hazards(self, now: int) -> list[float]:
        """Return the chance of a return within each bucket, of those who got there."""
        still = [0] * _BUCKETS
        log_waits = self._log_waits
        for since in self._waiting.values():
            still[_bucket(now - since)] += 1
            log_waits += math.log1p(now - since)
        exponent = (self._returns + _PRIOR_RETURNS) / (log_waits + _PRIOR_RETURNS / _PRIOR_EXPONENT)
        at_risk = self._returns + len(self._waiting)
        hazards = []
        for (low, high), came, waiting in zip(pairwise(_EDGES), self._came, still, strict=True):
            fitted = 1 - ((1 + low) / (1 + high)) ** exponent
            exposed = at_risk - waiting / 2
            hazards.append((came + _PRIOR_AT_RISK * fitted) / (exposed + _PRIOR_AT_RISK))
            at_risk -= came + waiting
        return hazards


def _gittins(hazards: Sequence[float]) -> list[float]:
    widths = [high - low for low, high in pairwise(_EDGES)]
    table = []
    for first in range(len(hazards)):
        best, alive, returns, kept = 0.0, 1.0, 0.0, 0.0
        for hazard, width in zip(hazards[first:], widths[first:], strict=True):
            returns += alive * hazard
            kept += alive * width * (1 - hazard / 2)
            alive *= 1 - hazard
            best = max(best, returns / kept)
        table.append(best)
    return table
