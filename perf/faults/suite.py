"""Suite `faults`: a thousand faults over all transports, and what came of each."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from agentbus.testing import FaultKind, Leftovers, random_faults

from ..report import Row
from ..suite import Progress, Suite
from .cases import REORDER, STARVED_S, WAYS, Case, Happening, reordered, run_case
from .killed import FREEZE, KILL, KILLED
from .work import DEADLINE_S, SLACK_S, Outcome, soon

__all__ = ["SUITE", "Tally", "cases", "run_cases"]

FULL = 1000
QUICK = 120
AT_ONCE = 8
"""Cases that run at a time."""
SEED = 1
_SPECIAL_EVERY = 15
"""One case of so many is of a process that is killed or stopped, or of two links."""
_EARLY_EVERY = 5
"""One fault of so many is there before the link is made."""
_MOST_BYTES = 2048
"""Bytes that go before a fault: fewer than go either way."""
_SUITE = "faults"


def cases(count: int, seed: int) -> Iterator[Case]:
    """Return so many cases, over all transports and kinds in turn. A seed makes the same ones."""
    rng = random.Random(seed)
    faults = {
        way: random_faults(seed + number, most_bytes=_MOST_BYTES) for number, way in enumerate(WAYS)
    }
    ways = itertools.cycle(WAYS)
    special = itertools.cycle((way, kind) for way in KILLED for kind in (KILL, FREEZE, REORDER))
    for number in range(count):
        if number % _SPECIAL_EVERY == _SPECIAL_EVERY - 1:
            way, kind = next(special)
            yield Case(way, kind, next(faults[way]), rng.randrange(2**32))
        else:
            way = next(ways)
            fault = next(faults[way])
            if fault.kind is FaultKind.STALL and rng.randrange(2):
                fault = replace(fault, seconds=0)  # for ever
            early = way != "inproc" and rng.randrange(_EARLY_EVERY) == 0
            yield Case(way, str(fault.kind), fault, rng.randrange(2**32), early)


class Tally:
    """What came of many cases."""

    def __init__(self) -> None:
        self.faults: Counter[tuple[str, str]] = Counter()
        """Cases by transport and kind."""
        self.outcomes: Counter[tuple[str, str, str]] = Counter()
        """Requests by transport, kind, and `replies` or the error's class."""
        self.violations: list[str] = []
        self.happened = 0
        self.repeats = 0
        self.late_s = 0.0

    def add(self, case: Case, outcome: Outcome) -> None:
        """Count one case."""
        key = (case.way, case.kind)
        self.faults[key] += 1
        self.outcomes[(*key, "replies")] += outcome.replies
        for error, count in outcome.errors.items():
            self.outcomes[(*key, error)] += count
        found = (*outcome.violations, *outcome.untimely)
        self.violations += [f"{case}: {line}" for line in found]
        self.happened += outcome.happened
        self.repeats += outcome.repeats
        self.late_s = max(self.late_s, outcome.late_s)

    def rows(self) -> list[Row]:
        """Return the counts by transport and kind, and the sums."""
        rows: list[Row] = []
        for way, kind in sorted(self.faults, key=lambda key: ([*WAYS].index(key[0]), key[1])):
            case = f"{way} {kind}"
            rows.append(_row(case, "injected_faults", self.faults[way, kind]))
            for (w, k, outcome), count in sorted(self.outcomes.items()):
                if (w, k) == (way, kind) and count:
                    is_reply = outcome == "replies"
                    rows.append(_row(case, outcome if is_reply else f"{outcome}_errors", count))
        rows.append(_row("all", "injected_faults", self.faults.total()))
        rows.append(_row("all", "happened_faults", self.happened))
        rows.append(_row("all", "repeated_faults", self.repeats))
        rows.append(_row("all", "requests", self.outcomes.total()))
        rows.append(_row("all", "latest_ms", max(0.0, self.late_s * 1000)))
        rows.append(_row("all", "violations", len(self.violations)))
        return rows


def _row(case: str, metric: str, value: float) -> Row:
    unit = metric.rpartition("_")[2]
    return Row(_SUITE, case, metric, float(value), unit, None, None, None)


def _happening(case: Case) -> Happening:
    if case.kind in (KILL, FREEZE):
        return KILLED[case.way]
    return reordered if case.kind == REORDER else WAYS[case.way]


async def run_cases(chosen: Sequence[Case], progress: Progress) -> Tally:
    """Let all cases happen, some at a time, and look at what they left."""
    for way in WAYS:  # what is loaded and opened once for all is no leftover
        await run_case(next(c for c in cases(40, SEED) if c.way == way), WAYS[way])
    left = Leftovers()
    tally, waiting = Tally(), iter(chosen)

    async def work() -> None:
        for case in waiting:
            tally.add(case, await run_case(case, _happening(case)))
            progress(f"{tally.faults.total()} of {len(chosen)}, {len(tally.violations)} violations")

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())
    await soon(lambda: not (left.tasks() or left.descriptors()))
    tally.violations += [f"left behind: {what}" for what in (*left.tasks(), *left.descriptors())]
    return tally


async def run(peers: Sequence[str], *, quick: bool, progress: Progress) -> list[Row]:
    """Inject the faults; each violation is said on standard error, too."""
    logging.disable(logging.ERROR)  # links that end and handlers that fail are the point
    try:
        tally = await run_cases(list(cases(QUICK if quick else FULL, SEED)), progress)
    finally:
        logging.disable(logging.NOTSET)
    for line in tally.violations:
        print(f"violation: {line}", file=sys.stderr)
    return tally.rows()


SUITE = Suite(
    name=_SUITE,
    peers=(),
    method=(
        "each fault has a bus of its own: one asker behind the fault with eight requests, a stream, "
        f"a feed and published messages at once, all with a deadline of {DEADLINE_S:g} s, and a "
        "witness on a link of its own that must not notice. Violations: a request that ends in "
        f"something else than a reply or a typed error, or over {SLACK_S:g} s after its deadline; "
        "an answer to something else; a message handled twice or out of order; parts of a stream "
        "that are lost, doubled or out of order; requests, tasks, descriptors or sockets that are "
        "left. Where one is only late, and the machine kept the process from running for over "
        f"{STARVED_S:g} s, the fault is repeated. Kinds: {', '.join([*FaultKind, REORDER, KILL, FREEZE])}. "
        "Reordered is what goes over two links; on one link nothing can be. In one process the fault is the "
        "agent's: slow, silent, busy, broken, or gone. A byte that is corrupted in a Unix socket, "
        "where nothing corrupts bytes, may read as another value: there answers are not compared."
    ),
    run=run,
)
