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
from typing import Final

__all__ = ["BusyPoll"]

_TRIAL: Final = 16
"""Answers by which each of the two ways is judged."""
_INTERVAL: Final = 0.2
_ANSWERS: Final = 256
"""Seconds, and answers, that pass at least between two comparisons: they take turns at the worse
way for no more than a small share of time and messages."""
_WORTHWHILE: Final = 0.9
"""Polling must make waiting this much shorter, since it costs CPU time."""


class BusyPoll:
    """Told of each message that crosses a link, it decides whether the loop may sleep."""

    __slots__ = (
        "_awake",
        "_call_soon",
        "_clock",
        "_count",
        "_next",
        "_polls",
        "_since",
        "_to_pass",
        "_until",
        "_wait_before",
        "_waited",
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
        """When the last message was sent, if nothing has come after it yet; else 0."""
        self._polls = window > 0
        self._next = 0.0
        """When the two ways are compared next, if enough answers have passed by then."""
        self._to_pass = 0
        self._wait_before: float | None = None
        """In a trial of the other way: the sum of the waits before it, in seconds."""
        self._waited = 0.0
        self._count = 0

    def sent(self) -> None:
        """Note that a message was sent, so that an answer to it may come at once."""
        if not self._window:
            return
        now = self._clock()
        if self._since and now - self._since > self._window:
            self._note(now, self._window)  # waited in vain
        self._since = now
        if self._polls:
            self._until = now + self._window
            if not self._awake:
                self._awake = True
                self._call_soon(self._poll)

    def heard(self) -> None:
        """Note that a message came."""
        if self._since:
            now = self._clock()
            self._note(now, min(now - self._since, self._window))
            self._since = 0.0

    def _poll(self) -> None:
        self._awake = self._clock() < self._until
        if self._awake:
            os.sched_yield()  # whoever is to answer may wait for this very core
            self._call_soon(self._poll)

    def _note(self, now: float, wait: float) -> None:
        """Take a wait into account: some with the way of now, as many with the other one."""
        if now < self._next or self._to_pass:
            self._to_pass = max(0, self._to_pass - 1)
            return
        self._waited += wait
        self._count += 1
        if self._count < _TRIAL:
            return
        before, self._wait_before = self._wait_before, self._waited
        waited, self._waited, self._count = self._waited, 0.0, 0
        if before is None:
            self._polls = not self._polls
            return
        polling, sleeping = (waited, before) if self._polls else (before, waited)
        self._polls = polling < _WORTHWHILE * sleeping
        self._wait_before = None
        self._next = now + _INTERVAL
        self._to_pass = _ANSWERS
