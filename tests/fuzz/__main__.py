"""`python -m tests.fuzz [--frames N] [--seed N] [--processes N]`: mutated frames, by the million.

Prints how frames ended, how many a second, and the memory before and after. The status is 1 where
one ended in something else than a message or a declared error, or memory grew.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from .share import Share, run_share

__all__ = ["main"]

FRAMES = 2_000_000
GROWTH_MIB = 4.0
"""What a process's memory may grow by, from when everything was used once."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trials, print what came of them, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args(argv)
    each = -(-arguments.frames // arguments.processes)
    seeds = [arguments.seed * 1000 + number for number in range(arguments.processes)]
    started = time.perf_counter()
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        shares = list(pool.map(run_share, seeds, [each] * len(seeds)))
    return _report(shares, time.perf_counter() - started)


def _report(shares: list[Share], seconds: float) -> int:
    outcomes: Counter[str] = sum((share.outcomes for share in shares), Counter())
    frames = outcomes.total()
    for name, count in outcomes.most_common():
        print(f"{count:>10,}  {name}")
    print(f"{frames:>10,}  frames in {seconds:.0f} s, {frames / seconds:,.0f} a second")
    status = 0
    for number, share in enumerate(shares, start=1):
        growth = share.after_mib - share.before_mib
        print(f"process {number}: {share.before_mib:.1f} MiB, then {share.after_mib:.1f} MiB")
        if share.finding:
            print(f"FOUND: {share.finding}")
            status = 1
        elif growth > GROWTH_MIB:
            print(f"FOUND: memory grew by {growth:.1f} MiB, more than {GROWTH_MIB}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
