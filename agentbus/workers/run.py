"""A worker process's main job: join the bus, start what was asked for, stay until told to stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio

from ..client import Bus
from ..config import BusSettings, EngineSettings, Keys
from ..errors import PeerLost
from .load import Target, load_agent

__all__ = ["run_worker"]


async def run_worker(
    url: str,
    targets: Sequence[Target],
    *,
    name: str,
    model: str,
    serve: Sequence[str],
    engine_settings: EngineSettings,
    bus_settings: BusSettings,
    ready: Callable[[list[str]], Awaitable[None]],
    keys: Keys | None = None,
) -> None:
    """Serve models and spawn agents, call `ready` with their names, stay until it returns.

    Raises:
        PeerLost: the broker went away.
        AgentbusError: something could not be started; what had been is stopped.
    """
    classes = [(load_agent(target), target.name) for target in targets]
    async with Bus.open(url, name=name, settings=bus_settings, keys=keys) as bus:
        started = [await bus.serve(spec, engine_settings) for spec in serve]
        for kind, agent_name in classes:
            started.append(await bus.spawn(kind, name=agent_name, model=model))
        async with anyio.create_task_group() as group:
            group.start_soon(_watch_home, bus)
            await ready(started)
            group.cancel_scope.cancel()


async def _watch_home(bus: Bus) -> None:
    """End the worker with the bus that it serves: nobody could reach it any more."""
    await bus.home_lost()
    raise PeerLost("the bus's broker")
