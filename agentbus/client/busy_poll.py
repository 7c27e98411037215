"""Keeps the loop awake for a moment after traffic, where that makes answers come sooner.

A reply from another process mostly comes within some ten µs. A loop that sleeps in the kernel
meanwhile adds 15 to 40 µs of waking up on a virtual machine with several cores; one that polls
adds about two. Where both processes share a core, polling only stands in the way, and where answers
take long it is wasted. Neither can be known beforehand, so both ways are tried in turn and the
better one is kept: KVM's halt polling (Linux, Documentation/virt/kvm/halt-polling.rst) adapts to
what it sees in the same spirit. What polling may cost is bounded by `window` for each message.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from time import perf_counter

__all__ = ["BusyPoll"]

_TRIAL = 16
"""Messages after which a trial of the other way ends."""
_FIRST_INTERVAL = 256
_LAST_INTERVAL = 16384
"""Messages between two trials: at first, and at most, after many that changed nothing."""
_WORTHWHILE = 0.9
"""Polling must make waiting this much shorter, since it costs CPU time."""


class BusyPoll:
    """Told of each message that crosses a link, it decides whether the loop may sleep."""

    __slots__ = (
        "_awake",
        "_call_soon",
        "_clock",
        "_count",
        "_interval",
        "_polls",
        "_prefers_polling",
        "_quota",
        "_since",
        "_until",
        "_waited",
        "_waits",
        "_window",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        window: float,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._call_soon = loop.call_soon
        self._clock = clock
        self._window = window
        """Seconds; 0 for never."""
        self._awake = False
        self._until = 0.0
        self._since = 0.0
        """When a message was sent that nothing has come after yet; 0 if something has."""
        self._polls = window > 0
        self._prefers_polling = self._polls
        self._waits = {True: 0.0, False: 0.0}
        """Mean wait with and without polling, in seconds and at most a window, when last tried."""
        self._waited = 0.0
        self._count = 0
        self._quota = _TRIAL
        self._interval = _FIRST_INTERVAL

    def sent(self) -> None:
        """Note that a message was sent, so that an answer to it may come at once."""
        if not self._window:
            return
        now = self._clock()
        if self._since:
            self._note(self._window)  # nothing has come since the last one
        self._since = now
        if self._polls:
            self._until = now + self._window
            if not self._awake:
                self._awake = True
                self._call_soon(self._poll)

    def heard(self) -> None:
        """Note that a message came."""
        if self._since:
            self._note(min(self._clock() - self._since, self._window))
            self._since = 0.0

    def _poll(self) -> None:
        self._awake = self._clock() < self._until
        if self._awake:
            os.sched_yield()  # whoever is to answer may wait for this very core
            self._call_soon(self._poll)

    def _note(self, wait: float) -> None:
        self._waited += wait
        self._count += 1
        if self._count >= self._quota:
            self._waits[self._polls] = self._waited / self._count
            self._waited, self._count = 0.0, 0
            self._next()

    def _next(self) -> None:
        """After the preferred way try the other one; after a trial go on with the better one."""
        if self._polls == self._prefers_polling:
            self._polls = not self._polls
            self._quota = _TRIAL
            return
        better = self._waits[True] < _WORTHWHILE * self._waits[False]
        changed = better != self._prefers_polling
        self._interval = _FIRST_INTERVAL if changed else min(2 * self._interval, _LAST_INTERVAL)
        self._prefers_polling = self._polls = better
        self._quota = self._interval
