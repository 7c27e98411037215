"""The process that sends for one contender of `bulk`: `python -m perf.micro.bulk_driver MODULE:FUNCTION`.

For each line that it reads it starts a receiver, connects, sends, and answers with a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib import import_module
from time import perf_counter
from typing import Any, cast

import numpy as np
import uvloop

from ..children import READY
from ..workloads import WrongReply, settle_gc

__all__ = ["BULK_BYTES", "Bulk", "Sender", "drive"]

BULK_BYTES = 64 * 1024 * 1024
_ITEM = np.dtype(np.float64)
_REPEATS = 3
_WARM_UP = 4

Bulk = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Sender:
    """One system that is connected to its receiver."""

    make: Callable[[Bulk], Any]
    """Makes what it sends of an array, untimed: a new object in ordinary memory."""
    send: Callable[[Any], Awaitable[float]]
    """Sends that, and returns the sum that the receiver made of it."""


OpenContender = Callable[[], AbstractAsyncContextManager[Sender]]


async def _timed(sender: Sender, number: int) -> float:
    """Send an array that was just made; returns milliseconds."""
    count = BULK_BYTES // _ITEM.itemsize
    made = sender.make(np.full(count, float(number)))
    before = perf_counter()
    total = await sender.send(made)
    taken = perf_counter() - before
    if total != count * number:
        raise WrongReply(f"the sum of {count} times {number} is not {total}")
    return taken * 1e3


async def _one_round(open_contender: OpenContender) -> dict[str, float]:
    async with open_contender() as sender:
        # Routes, imports and code are warm; what is large is not.
        await sender.send(sender.make(np.ones(_WARM_UP)))
        first = await _timed(sender, 1)
        repeats = [await _timed(sender, 2 + number) for number in range(_REPEATS)]
        return {"first_ms": first, "repeat_ms": statistics.median(repeats)}


async def drive(target: str) -> None:
    """Run rounds of the contender that `module:function` names until input ends."""
    module, _, function = target.partition(":")
    open_contender = cast(OpenContender, getattr(import_module(module), function))
    await _one_round(open_contender)
    settle_gc()
    print(READY, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await _one_round(open_contender)), flush=True)


if __name__ == "__main__":
    uvloop.run(drive(sys.argv[1]))
