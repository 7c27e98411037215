"""agentbus with all that it notes of requests, and with nothing of it.

`python -m perf.micro.telemetry_side on|off FOLDER` hosts the echoing agent at a socket there.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from agentbus import Bus, BusSettings, TelemetrySettings

from ..children import announce_and_wait, python_child
from ..cores import cpu_seconds
from ..workloads import Contender, Load
from .agentbus_side import Echo, echo_calls

__all__ = ["inproc", "measure", "unix"]

SOCKET = "bus.sock"


def _settings(mode: str, folder: str) -> BusSettings:
    """As users run it, spans written to a file; or with everything off."""
    if mode == "off":
        return BusSettings(telemetry=TelemetrySettings(enabled=False))
    return BusSettings(telemetry=TelemetrySettings(export=str(Path(folder, "spans.jsonl"))))


@asynccontextmanager
async def inproc(mode: str) -> AsyncGenerator[Contender, None]:
    """One process; `mode` is on or off."""
    with TemporaryDirectory(prefix="perf-") as folder:
        async with Bus.open(settings=_settings(mode, folder)) as bus:
            await bus.spawn(Echo, name="echo")
            yield await echo_calls(bus)


@asynccontextmanager
async def unix(mode: str) -> AsyncGenerator[Contender, None]:
    """Two processes; `mode` is both's."""
    with TemporaryDirectory(prefix="perf-") as folder, TemporaryDirectory(prefix="perf-") as own:
        async with (
            python_child(f"agentbus {mode}", "perf.micro.telemetry_side", mode, folder),
            Bus.open(f"unix://{folder}/{SOCKET}", settings=_settings(mode, own)) as bus,
        ):
            yield await echo_calls(bus)


async def measure(contender: Contender, load: Load) -> dict[str, float]:
    """Drive one round: replies a second, and the CPU time of all processes for each."""
    before = cpu_seconds()
    rate = await contender.rate(load.rate_s, load.in_flight)
    spent = cpu_seconds() - before
    return {"req_s": rate, "cpu_us": spent * 1e6 / (rate * load.rate_s)}


async def serve(mode: str, folder: str) -> None:
    """Host the agent until the parent leaves."""
    async with Bus.open(listen=str(Path(folder, SOCKET)), settings=_settings(mode, folder)) as bus:
        await bus.spawn(Echo, name="echo")
        await announce_and_wait()


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
