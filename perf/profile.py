"""Where the time of one request goes: `python -m perf.profile [inproc|unix] [--seconds S]`.

Both processes are sampled by their CPU time while requests go one at a time; each sample counts
for the innermost frame of agentbus that it finds, since libraries work for whom called them.
Sampling, unlike tracing, does not make small functions look expensive. A loop that sleeps takes
no samples. `python -m perf.profile serve PATH` hosts the agent for `unix`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from types import FrameType

import uvloop
from rich.console import Console
from rich.table import Table

from agentbus import Bus
from agentbus.demo.machine import machine

from .children import READY, Child, ChildFailed, python_child
from .micro.agentbus_side import Echo
from .workloads import PING, REQUEST_TIMEOUT_S, Calls, checked_calls, settle_gc

__all__ = ["Sampled", "layer_of", "main", "profile", "sampling", "serve"]

_ROOT = Path(__file__).resolve().parents[1]
SAMPLE_EVERY_S = 0.001
"""CPU time between samples; the system may round it up to its own tick."""
WARMUP_S = 0.5
REPORT_TIMEOUT_S = 10.0

_WIRE = "agentbus/wire/"
_PAYLOAD = tuple(f"agentbus/client/{name}.py" for name in ("payload", "copies", "flat"))
_ENCODING = frozenset(
    {"encode", "send", "_check", "_plain", "dumped", "add", "fits", "take", "join_batch"}
)
"""Functions of these that encode."""
_LAYERS: Mapping[str, str] = {
    "agentbus/transport/": "link",
    "agentbus/client/mailbox.py": "mailbox",
    "agentbus/client/delivery.py": "mailbox",
    "agentbus/client/blueprint.py": "mailbox",
    "agentbus/client/pool.py": "mailbox",
    "agentbus/client/deadlines.py": "deadlines",
    "agentbus/client/busy_poll.py": "busy polling",
    "agentbus/": "requests",
    "perf/": "caller and handler",
}
"""How a file's path begins, and its layer; the first that fits."""
LOOP = "loop"


@dataclass(slots=True)
class Sampled:
    """What one process did: samples by layer, and CPU time in seconds."""

    layers: Counter[str] = field(default_factory=Counter)
    cpu_s: float = 0.0

    def us_a_request(self, requests: int) -> dict[str, float]:
        """Return each layer's share of the CPU time of a request, in µs."""
        total = self.layers.total() or 1
        scale = self.cpu_s * 1e6 / requests / total
        return {layer: count * scale for layer, count in self.layers.items()}


def layer_of(path: str, function: str) -> str | None:
    """Return the layer of a function, if it is agentbus's or the measurement's."""
    if not path.startswith(f"{_ROOT}/"):
        return None
    inside = path[len(f"{_ROOT}/") :]
    if inside == "perf/profile.py":  # it is under the loop, not work that the loop does
        return None
    if inside.startswith((_WIRE, *_PAYLOAD)):
        if function in _ENCODING:
            return "encode"
        return "decode" if function == "decode" or inside.startswith(_WIRE) else "copy"
    return next((layer for start, layer in _LAYERS.items() if inside.startswith(start)), None)


def _layer_of_stack(frame: FrameType | None) -> str:
    while frame is not None:
        layer = layer_of(frame.f_code.co_filename, frame.f_code.co_name)
        if layer is not None:
            return layer
        frame = frame.f_back
    return LOOP


@contextmanager
def sampling() -> Iterator[Sampled]:
    """Sample this process while the block runs; call it in the main thread."""
    sampled = Sampled()

    def take(_: int, frame: FrameType | None) -> None:
        sampled.layers[_layer_of_stack(frame)] += 1

    before, previous = process_time(), signal.signal(signal.SIGPROF, take)
    signal.setitimer(signal.ITIMER_PROF, SAMPLE_EVERY_S, SAMPLE_EVERY_S)
    try:
        yield sampled
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
        sampled.cpu_s = process_time() - before


async def serve(path: str) -> None:
    """Host the agent; a line begins to sample, another one ends it and is answered."""
    async with Bus.open(listen=path) as bus:
        await bus.spawn(Echo, name="echo")
        settle_gc()
        print(READY, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        with sampling() as sampled:
            await asyncio.to_thread(sys.stdin.readline)
        print(json.dumps([sampled.layers, sampled.cpu_s]), flush=True)


@asynccontextmanager
async def _opened(case: str) -> AsyncGenerator[tuple[Bus, Child | None], None]:
    if case == "inproc":
        async with Bus.open() as bus:
            await bus.spawn(Echo, name="echo")
            yield bus, None
        return
    with TemporaryDirectory(prefix="perf-") as folder:
        path = str(Path(folder, "bus.sock"))
        async with (
            python_child("the agent's process", "perf.profile", "serve", path) as agent,
            Bus.open(f"unix://{path}") as bus,
        ):
            yield bus, agent


async def profile(case: str, seconds: float) -> dict[str, dict[str, float]]:
    """Return the µs of a request by layer, for each process.

    Raises:
        ChildFailed: the agent's process broke.
    """
    async with _opened(case) as (bus, agent):

        async def request() -> object:
            return await bus.request("echo", PING, deadline=REQUEST_TIMEOUT_S)

        calls: Calls = await checked_calls(request)
        await calls.latencies(WARMUP_S)
        settle_gc()
        if agent is not None:
            await agent.tell("begin")
        with sampling() as ours:
            requests = len(await calls.latencies(seconds))
        found = {"caller": ours.us_a_request(requests)}
        if agent is not None:
            await agent.tell("end")
            layers, cpu_s = json.loads(await agent.hear(REPORT_TIMEOUT_S))
            theirs = Sampled(Counter(layers), cpu_s)
            found["agent"] = theirs.us_a_request(requests)
        return found


def _table(case: str, found: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(title=f"{case}: µs of CPU a request", title_justify="left")
    table.add_column("layer")
    for process in found:
        table.add_column(process, justify="right")
    together = Counter[str]()
    for layers in found.values():
        together.update(layers)
    for layer, _ in together.most_common():
        table.add_row(layer, *(f"{layers.get(layer, 0.0):.1f}" for layers in found.values()))
    table.add_row("all", *(f"{sum(layers.values()):.1f}" for layers in found.values()))
    return table


def main() -> None:
    """Profile, and print the table."""
    if sys.argv[1:2] == ["serve"]:
        uvloop.run(serve(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(
        prog="python -m perf.profile", description="Show where the CPU time of one request goes."
    )
    parser.add_argument("case", nargs="?", choices=("unix", "inproc"), default="unix")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to sample")
    arguments = parser.parse_args()
    try:
        found = uvloop.run(profile(arguments.case, arguments.seconds))
    except ChildFailed as error:
        sys.exit(f"perf.profile: {error}")
    console = Console()
    console.print(_table(arguments.case, found))
    console.print(f"Machine: {machine()}", highlight=False)


if __name__ == "__main__":
    main()
