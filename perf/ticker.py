"""A clock that wakes the event loop at even distances, precisely, without keeping it awake.

The loop's own timers round to 1 ms, and a loop that polls for the next moment would take a core
from the processes under load. Linux only: elsewhere `can_tick` says no.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import CLOCK_MONOTONIC, monotonic_ns

__all__ = ["Ticker", "can_tick", "ticking"]

NS_PER_S = 1_000_000_000
_TIMER_ABSTIME = 1


class _Timerspec(ctypes.Structure):
    """`struct itimerspec`: the interval, then the first expiry."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("first_s", ctypes.c_long),
        ("first_ns", ctypes.c_long),
    )


def can_tick() -> bool:
    """Whether this system has timers that the loop can wait for like for a socket."""
    return sys.platform == "linux"


class Ticker:
    """Waits for the next tick; ticks that nobody waited for count as one."""

    def __init__(self, descriptor: int, start_ns: int) -> None:
        self._descriptor = descriptor
        self.start_ns = start_ns
        """One period before the first tick, on the monotonic clock."""
        self._ticked = asyncio.Event()

    async def wait(self) -> None:
        """Return at the next tick, or at once if there was one since the last call."""
        await self._ticked.wait()
        self._ticked.clear()

    def expired(self) -> None:
        """Take the timer's count of expiries."""
        os.read(self._descriptor, 8)
        self._ticked.set()


@contextmanager
def ticking(period_ns: int) -> Iterator[Ticker]:
    """Tick every `period_ns` while the block runs, first after one period.

    Raises:
        OSError: the system has no such timer.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # The timer's flags are defined as those of open(2).
    descriptor = libc.timerfd_create(CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create failed")
    loop = asyncio.get_running_loop()
    start_ns = monotonic_ns()
    ticker = Ticker(descriptor, start_ns)
    first, period = divmod(start_ns + period_ns, NS_PER_S), divmod(period_ns, NS_PER_S)
    times = ctypes.byref(_Timerspec(*period, *first))
    try:
        if libc.timerfd_settime(descriptor, _TIMER_ABSTIME, times, None):
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")
        loop.add_reader(descriptor, ticker.expired)
        yield ticker
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
