"""A worker process's main job: join the bus, start what was asked for, stay until told to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

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
    drain_timeout: float,
    serving: Callable[[Bus, list[str]], AbstractAsyncContextManager[None]],
    stop: anyio.Event,
    keys: Keys | None = None,
    token: str = "",
    listen: str = "",
) -> None:
    """Serve models and spawn agents, enter `serving` with their names, stay until `stop` is set.

    Then the worker takes no new requests and goes on with those under way for at most
    `drain_timeout` seconds. A broker that ends in order sets `stop`, too.

    Raises:
        PeerLost: the broker went away without a word.
        AgentbusError: something could not be started; what had been is stopped.
    """
    classes = [(load_agent(target), target.name) for target in targets]
    async with Bus.open(
        url, listen=listen, name=name, settings=bus_settings, keys=keys, token=token
    ) as bus:
        started = [await bus.serve(spec, engine_settings) for spec in serve]
        for kind, agent_name in classes:
            started.append(await bus.spawn(kind, name=agent_name, model=model))
        async with anyio.create_task_group() as group:
            group.start_soon(_watch_home, bus, stop)
            async with serving(bus, started):
                await stop.wait()
                await bus.drain(drain_timeout)
            group.cancel_scope.cancel()


async def _watch_home(bus: Bus, stop: anyio.Event) -> None:
    """End the worker with the bus that it serves: nobody new could reach it any more."""
    if not await bus.home_lost():
        raise PeerLost("the bus's broker")
    stop.set()
