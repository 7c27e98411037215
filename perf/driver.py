"""The process that drives one contender: `python -m perf.driver OPEN MEASURE LOAD`.

OPEN names what opens the contender, as `module:function` or `module:function:argument`, MEASURE
what drives one round of it, as `module:function`.

One process each, so that no contender pays for another's heap, modules or event loop. It warms
up, says `ready`, then runs one round for each line it reads and answers with a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, replace
from importlib import import_module
from typing import Any

import uvloop

from .children import READY
from .workloads import Load, settle_gc

__all__ = ["command", "drive"]

OpenContender = Callable[..., AbstractAsyncContextManager[object]]
Measure = Callable[[object, Load], Awaitable[dict[str, float]]]


def command(target: str, measure: str, load: Load) -> tuple[str, ...]:
    """Return the arguments that make `python -m perf.driver` drive `target` under `load`."""
    return target, measure, json.dumps(asdict(load))


def _named(module: str, function: str) -> Any:
    return getattr(import_module(module), function)


async def drive(target: str, measure: str, load: Load) -> None:
    """Open the contender and run rounds until input ends."""
    module, function, *arguments = target.split(":")
    open_contender: OpenContender = _named(module, function)
    one_round: Measure = _named(*measure.split(":"))
    async with open_contender(*arguments) as contender:
        half = load.warmup_s / 2
        await one_round(
            contender, replace(load, latency_s=half, rate_s=half, open_s=0.0, one_core=False)
        )
        settle_gc()
        print(READY, flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await one_round(contender, load)), flush=True)


if __name__ == "__main__":
    uvloop.run(drive(sys.argv[1], sys.argv[2], Load(**json.loads(sys.argv[3]))))
