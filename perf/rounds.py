"""Runs contenders against each other, one round each in turn, so that noise falls on all alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AsyncExitStack

from .children import Child, python_child
from .driver import command
from .suite import Progress
from .workloads import Load, medians

__all__ = ["interleave"]

ROUND_GRACE_S = 30.0
"""How much longer than asked a round may take on a busy machine."""


async def interleave(
    contenders: Mapping[str, str],
    load: Load,
    progress: Progress,
    measure: str = "perf.workloads:measure",
) -> dict[str, dict[str, float]]:
    """Return each contender's metrics, as medians over `load.rounds` interleaved rounds.

    Args:
        contenders: a name for each, and what opens it, as `driver` reads it.
        progress: told what runs now.
        measure: the `module:function` that drives one round and returns its metrics.

    Raises:
        ChildFailed: a contender did not start, or broke.
    """
    results: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    async with AsyncExitStack() as stack:
        drivers: dict[str, Child] = {}
        for name, target in contenders.items():
            progress(f"warming up {name}")
            drivers[name] = await stack.enter_async_context(
                python_child(name, "perf.driver", *command(target, measure, load), own_group=True)
            )
        for number in range(1, load.rounds + 1):
            for name, driver in drivers.items():
                progress(f"round {number} of {load.rounds}: {name}")
                results[name].append(await _one_round(driver, load))
    return {name: medians(rounds) for name, rounds in results.items()}


async def _one_round(driver: Child, load: Load) -> dict[str, float]:
    await driver.tell("round")
    line = await driver.hear(2 * load.latency_s + load.rate_s + load.open_s + ROUND_GRACE_S)
    return {metric: float(value) for metric, value in json.loads(line).items()}
