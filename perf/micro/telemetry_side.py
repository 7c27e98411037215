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
from ..workloads import PING, REQUEST_TIMEOUT_S, Calls, Contender, Load, checked_calls
from .agentbus_side import Echo

__all__ = ["inproc_off", "inproc_on", "measure", "unix_off", "unix_on"]

SOCKET = "bus.sock"


def _settings(mode: str, folder: str) -> BusSettings:
    """As users run it, spans written to a file; or with everything off."""
    if mode == "off":
        return BusSettings(telemetry=TelemetrySettings(enabled=False))
    return BusSettings(telemetry=TelemetrySettings(export=str(Path(folder, "spans.jsonl"))))


async def _calls(bus: Bus) -> Calls:
    async def request() -> object:
        return await bus.request("echo", PING, deadline=REQUEST_TIMEOUT_S)

    return await checked_calls(request)


@asynccontextmanager
async def _inproc(mode: str) -> AsyncGenerator[Contender, None]:
    with TemporaryDirectory(prefix="perf-") as folder:
        async with Bus.open(settings=_settings(mode, folder)) as bus:
            await bus.spawn(Echo, name="echo")
            yield await _calls(bus)


@asynccontextmanager
async def _unix(mode: str) -> AsyncGenerator[Contender, None]:
    with TemporaryDirectory(prefix="perf-") as folder, TemporaryDirectory(prefix="perf-") as own:
        async with (
            python_child(f"agentbus {mode}", "perf.micro.telemetry_side", mode, folder),
            Bus.open(f"unix://{folder}/{SOCKET}", settings=_settings(mode, own)) as bus,
        ):
            yield await _calls(bus)


@asynccontextmanager
async def inproc_on() -> AsyncGenerator[Contender, None]:
    """One process, accounts and spans on."""
    async with _inproc("on") as contender:
        yield contender


@asynccontextmanager
async def inproc_off() -> AsyncGenerator[Contender, None]:
    """One process, all off."""
    async with _inproc("off") as contender:
        yield contender


@asynccontextmanager
async def unix_on() -> AsyncGenerator[Contender, None]:
    """Two processes, accounts and spans on in both."""
    async with _unix("on") as contender:
        yield contender


@asynccontextmanager
async def unix_off() -> AsyncGenerator[Contender, None]:
    """Two processes, all off in both."""
    async with _unix("off") as contender:
        yield contender


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
