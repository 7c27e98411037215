"""Suite `bulk`: an array of 64 MiB to another process on this host, which reads all of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from ..children import Child, python_child
from ..peers import GRPC
from ..report import Row, compare
from ..suite import Progress, Suite
from ..workloads import medians

__all__ = ["SUITE", "TARGETS", "run_rounds"]

CASE = "64mib"
OURS = "agentbus"
TARGETS: Mapping[str, Sequence[str]] = {
    OURS: ("perf.micro.bulk_side:unix",),
    GRPC.name: ("perf.peers.grpc_bulk:unix", "perf.peers.grpc_bulk:loopback"),
}
"""The ways of each contender; the best of them counts."""
QUICK_ROUNDS = 5
ROUNDS = 15
ROUND_TIMEOUT_S = 60.0


async def run(peers: Sequence[str], *, quick: bool, progress: Progress) -> list[Row]:
    """Measure against the peers that are named."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    results = await run_rounds([OURS, *peers], rounds, progress)
    return compare(SUITE.name, CASE, results.pop(OURS), results)


async def run_rounds(
    names: Sequence[str], rounds: int, progress: Progress
) -> dict[str, dict[str, float]]:
    """Return each contender's metrics: its best way's medians over interleaved rounds.

    Raises:
        ChildFailed: a contender did not start, or broke.
    """
    taken: dict[str, list[dict[str, float]]] = {}
    async with AsyncExitStack() as stack:
        drivers: dict[str, Child] = {}
        for target in (target for name in names for target in TARGETS[name]):
            progress(f"warming up {target}")
            driver = python_child(target, "perf.micro.bulk_driver", target, own_group=True)
            drivers[target] = await stack.enter_async_context(driver)
            taken[target] = []
        for number in range(1, rounds + 1):
            for target, child in drivers.items():
                progress(f"round {number} of {rounds}: {target}")
                await child.tell("round")
                taken[target].append(json.loads(await child.hear(ROUND_TIMEOUT_S)))
    return {name: _best([medians(taken[target]) for target in TARGETS[name]]) for name in names}


def _best(ways: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {metric: min(way[metric] for way in ways) for metric in ways[0]}


SUITE = Suite(
    name="bulk",
    peers=(GRPC,),
    method=(
        "an array of 64 MiB, made anew each time, from ordinary memory to another process on this "
        "host, which answers with its sum; first_ms the first on a new connection that small "
        "messages warmed, repeat_ms the median of the next three; medians over interleaved rounds; "
        "grpc.aio gets bytes, over a Unix socket or loopback, whichever is faster."
    ),
    run=run,
)
