"""When to ask a silent peer for a sign of life, and when to give it up. Pure: `now` comes in.

For transports that do not tell when the other side vanished: a host that lost its power, a cable
that was pulled. Only silence is asked about, so a busy link pays nothing.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Liveness", "Verdict"]


class Verdict(Enum):
    """What a check found."""

    ALIVE = "alive"
    ASK = "ask"
    """Send a PING."""
    LOST = "lost"


class Liveness:
    """Watches one peer. A peer is lost after `interval * (misses + 1)` seconds of silence.

    Misses are counted in checks and not in seconds alone: a process that was itself asleep for long
    asks before it judges.
    """

    __slots__ = ("_asked", "_heard_at", "_interval", "_misses", "next_at")

    def __init__(self, now: float, interval: float, misses: int) -> None:
        """Begin as if the peer had been heard `now`.

        Args:
            now: seconds, of the clock that all calls use.
            interval: seconds of silence after which the peer is asked, and asked again.
            misses: how often it may be asked in vain.
        """
        self._interval = interval
        self._misses = misses
        self._heard_at = now
        self._asked = 0
        self.next_at = now + interval
        """When to `check` next."""

    def heard(self, now: float) -> None:
        """Note that bytes of the peer came, whichever."""
        self._heard_at = now
        self._asked = 0

    def check(self, now: float) -> Verdict:
        """Say what to do at `next_at`, and set the next one."""
        due = self._heard_at + self._interval
        if now < due:
            self.next_at = due
            return Verdict.ALIVE
        self.next_at = now + self._interval
        if self._asked == self._misses:
            return Verdict.LOST
        self._asked += 1
        return Verdict.ASK
