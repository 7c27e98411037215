"""What one process does of a run of trials, and how much memory it holds meanwhile."""

from __future__ import annotations

import gc
import logging
import resource
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import uvloop

from .process import ProcessCampaign
from .trials import Campaign, Finding

__all__ = ["TO_PROCESSES", "Share", "run_share"]

TO_PROCESSES = 10
"""One frame of so many goes to a whole process, the others to what reads frames."""
_WARM_UP = 20_000
_MIB = 1024 * 1024


class Share(NamedTuple):
    """What one process has done."""

    outcomes: Counter[str]
    before_mib: float
    after_mib: float
    finding: str


def run_share(seed: int, frames: int) -> Share:
    """Run one process's trials, and look at its memory once all was used, and at the end."""
    logging.disable(logging.WARNING)  # each link that ends is worth a line, to others
    reading, whole = Campaign(seed), ProcessCampaign(seed)

    def run(count: int) -> None:
        reading.run(count - count // TO_PROCESSES)
        uvloop.run(whole.run(count // TO_PROCESSES))
        gc.collect()

    finding = ""
    before = 0.0
    try:
        run(min(_WARM_UP, frames // 2))
        before = resident_mib()
        run(frames - min(_WARM_UP, frames // 2))
    except Finding as found:
        finding = str(found)
    return Share(reading.outcomes + whole.outcomes, before, resident_mib(), finding)


def resident_mib() -> float:
    """Return this process's memory: what it holds now, or where unknown, the most that it held."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / _MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MIB
