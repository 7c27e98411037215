"""The process that asks one engine: `python -m perf.macro.engine_child OPEN FOLDER THREADS`.

OPEN names what opens the contender, as `module:function`, called with the model's folder and the
number of threads. For each line that it reads, JSON of a case, its lengths and the round's number,
it answers with a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from pathlib import Path
from typing import cast

import uvloop

from ..children import READY
from ..small_model import tokens_of
from ..workloads import settle_gc
from .engine_asks import Contender, Writer, measure, read_order

__all__ = ["drive"]

OpenContender = Callable[[Path, int], AbstractAsyncContextManager[Contender]]


async def drive(target: str, folder: Path, threads: int) -> None:
    """Open the contender and measure until input ends."""
    module, _, function = target.partition(":")
    open_contender = cast(OpenContender, getattr(import_module(module), function))
    writer = Writer(tokens_of(folder))
    async with open_contender(folder, threads) as contender:
        await contender.answer([writer.prompt("warm-up", 64)], 4, "warm-up")
        settle_gc()
        print(READY, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            case, lengths, number = read_order(line)
            metrics = await measure(case, contender, writer, lengths, number)
            print(json.dumps(metrics), flush=True)


if __name__ == "__main__":
    uvloop.run(drive(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
