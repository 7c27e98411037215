"""The process that drives one contender: `python -m perf.driver MODULE:FUNCTION LOAD`.

One process each, so that no contender pays for another's heap, modules or event loop. It warms
up, says `ready`, then runs one round for each line it reads and answers with a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, replace
from importlib import import_module
from typing import cast

import uvloop

from .children import READY
from .workloads import Contender, Load, measure, settle_gc

__all__ = ["command", "drive"]

OpenContender = Callable[[], AbstractAsyncContextManager[Contender]]


def command(target: str, load: Load) -> tuple[str, ...]:
    """Return the arguments that make `python -m perf.driver` drive `target` under `load`."""
    return target, json.dumps(asdict(load))


async def drive(target: str, load: Load) -> None:
    """Open the contender that `module:function` names and run rounds until input ends."""
    module, _, function = target.partition(":")
    open_contender = cast(OpenContender, getattr(import_module(module), function))
    async with open_contender() as contender:
        half = load.warmup_s / 2
        await measure(contender, replace(load, latency_s=half, rate_s=half, one_core=False))
        settle_gc()
        print(READY, flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await measure(contender, load)), flush=True)


if __name__ == "__main__":
    uvloop.run(drive(sys.argv[1], Load(**json.loads(sys.argv[2]))))
