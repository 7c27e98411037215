"""Keeps the loop awake for a moment after traffic: going to sleep and being woken costs more than
a hop does.

A reply from another process mostly comes within some ten µs. A loop that sleeps in the kernel
meanwhile adds 15 to 40 µs of waking up on a virtual machine with several cores; one that polls
adds about two. What polling may cost is bounded: it lasts `window` at most after each message, and
rests once it has been in vain a few times, until replies come quickly again. The rule is that of
KVM's halt polling (Linux, Documentation/virt/kvm/halt-polling.rst), with a fixed window.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from time import perf_counter

__all__ = ["BusyPoll"]

_PATIENCE = 8
"""Windows in a row that may pass in vain before polling rests."""


class BusyPoll:
    """Told of each message that crosses a link, it decides whether the loop may sleep."""

    __slots__ = ("_call_soon", "_clock", "_patience", "_polling", "_until", "_window")

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
        self._until = 0.0
        self._polling = False
        self._patience = _PATIENCE if window else 0

    def sent(self) -> None:
        """Note that a message was sent, so that an answer to it may come at once."""
        self._until = self._clock() + self._window
        if self._patience and not self._polling:
            self._polling = True
            self._call_soon(self._poll)

    def heard(self) -> None:
        """Note that a message came; coming soon after one was sent, it shows that polling pays."""
        # While polling rests, waking up is part of what is measured: hence another window.
        if self._window and self._clock() < self._until + self._window:
            self._patience = _PATIENCE

    def _poll(self) -> None:
        if self._clock() < self._until:
            # Whoever is to answer may wait for this very core.
            os.sched_yield()
            self._call_soon(self._poll)
        else:
            self._polling = False
            self._patience -= 1
