"""Where the bytes of suite `scale` go: `python -m perf.memory [--agents N]`.

Starts agents as the suite does, and lists what that added to this process by type of object.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import uvloop

from .micro.scale import contend

__all__ = ["by_type", "main"]

AGENTS = 10_000
_SHOWN = 0.01
"""Types whose objects take less than this share of all bytes are not listed."""


async def by_type(agents: int) -> dict[str, tuple[int, int]]:
    """Return for each type how many objects `agents` agents have added, and their bytes."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(contend("keepers_1"))
        before: set[int] = set()
        before |= {id(one) for one in _objects(before)}
        await stack.enter_async_context(contend(f"keepers_{agents}"))
        gc.collect()
        counts: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for one in _objects(before):
            if id(one) not in before:
                counts[type(one).__name__] += 1
                sizes[type(one).__name__] += sys.getsizeof(one)
        return {name: (counts[name], size) for name, size in sizes.most_common()}


def _objects(notes: set[int]) -> Iterator[Any]:
    """Yield each object once, those that the collector knows and what they refer to, but `notes`."""
    seen: set[int] = set()
    waiting = gc.get_objects()
    seen |= {id(notes), id(seen), id(waiting)}
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [inner for inner in gc.get_referents(one) if id(inner) not in seen]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m perf.memory", description=__doc__)
    parser.add_argument("--agents", type=int, default=AGENTS)
    agents = parser.parse_args(argv).agents
    found = uvloop.run(by_type(agents))
    total = sum(size for _, size in found.values())
    print(f"{'type':24} {'objects/agent':>14} {'bytes/agent':>12}")
    for name, (count, size) in found.items():
        if size >= _SHOWN * total:
            print(f"{name:24} {count / agents:14.2f} {size / agents:12.0f}")
    print(f"{'all':24} {'':14} {total / agents:12.0f}")


if __name__ == "__main__":
    main()
