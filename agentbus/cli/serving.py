"""The commands that serve until they are stopped: `up`, `worker`."""

from __future__ import annotations

import dataclasses
import logging
import signal
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import orjson
from anyio.abc import TaskStatus

from ..client import Bus
from ..config import DaemonSettings, Keys, Prices
from ..daemon import start_broker
from ..engine import check_ranker
from ..errors import AgentbusError, ConfigError
from ..guard import Guard
from ..ops import OFF, operate, parse_address, spare_from_collection
from ..routing import Policy, Tokens
from ..transport import TCP_SCHEME
from ..workers import parse_target, run_worker
from .runtime import print_json, until_end_of_input

__all__ = ["check_up", "parse_prices", "run_up", "start_worker"]

logger = logging.getLogger("agentbus")

Rules = Callable[[], tuple[Policy | None, Tokens]]
"""Reads the policy and the tokens."""


def _listen_at(url: str) -> str:
    """Return what a bus is told to listen at: a socket's path, or a url of tcp."""
    if url.startswith(TCP_SCHEME):
        return url
    path = url.removeprefix("unix://")
    if path in ("", url):
        problem = f"{url!r} is not of the form unix:///path/to.sock or ab://host:port"
        raise ConfigError("url", problem)
    return path


def parse_prices(text: str) -> Prices:
    """Read three numbers with commas between them.

    Raises:
        ConfigError: they are not three prices.
    """
    try:
        prompt, reused, answer = map(float, text.split(","))
    except ValueError:
        problem = f"takes three numbers, as in 0.2,0.02,1, not {text!r}"
        raise ConfigError("prices", problem) from None
    return Prices(prompt=prompt, reused=reused, answer=answer)


def check_up(settings: DaemonSettings, *, json: bool) -> None:
    """Print the settings that `up` would run with.

    Raises:
        ConfigError: it could not run with them.
    """
    _listen_at(settings.listen)
    if settings.metrics != OFF:
        parse_address(settings.metrics)
    check_ranker(settings.engine.ranker)
    effective = dataclasses.asdict(settings)
    if json:
        print_json(effective)
        return
    for key, value in _flat(effective):
        print(f"{key} = {orjson.dumps(value).decode()}")  # as TOML writes it, too


def _flat(table: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        name = f"{above}{key}"
        if isinstance(value, tuple) and value and isinstance(value[0], dict):
            value = {str(at): inner for at, inner in enumerate(value)}
        if isinstance(value, dict):
            found += _flat(value, f"{name}.")
        elif value is not None:
            found.append((name, value))
    return found


async def run_up(
    settings: DaemonSettings,
    stop: anyio.Event,
    rules: Rules,
    *,
    keys: Keys | None,
    until_eof: bool,
    json: bool,
) -> None:
    """Be the broker until `stop` is set. Its workers are told when the bus closes.

    `rules` reads policy and tokens, at first and whenever the process gets SIGHUP.
    """
    where = _listen_at(settings.listen)
    policy, tokens = rules()
    if policy is None and where.startswith(TCP_SCHEME):
        logger.warning("there is no [acl]: who has an authorised key may do everything")
    if keys is not None and not keys.authorized:
        raise ConfigError("keys", "nobody could join: name a folder of public keys, --authorized")
    async with (
        Bus.open(listen=where, name="broker", settings=settings.bus, keys=keys) as broker,
        operate(broker, settings.metrics) as metrics,
        anyio.create_task_group() as group,
    ):
        guard = await start_broker(broker, policy=policy, tokens=tokens)
        await group.start(_renew_on_hangup, guard, rules)
        # With port 0 the system has chosen one.
        url = broker.listens_at if where.startswith(TCP_SCHEME) else settings.listen
        spare_from_collection()
        if json:
            print_json({"ready": url, "metrics": metrics})
        else:
            print(f"The bus is up at {url}. Stop it with Ctrl-C.", flush=True)
            _say_metrics(metrics)
        if until_eof:
            group.start_soon(_set_at_end_of_input, stop)
        await stop.wait()
        group.cancel_scope.cancel()


async def start_worker(
    settings: DaemonSettings,
    url: str,
    agents: Sequence[str],
    stop: anyio.Event,
    *,
    name: str,
    model: str,
    serve: Sequence[str],
    keys: Keys | None,
    token: str,
    listen: str,
    until_eof: bool,
    json: bool,
) -> None:
    """Be a worker until `stop` is set, or until its broker ends."""
    if not (agents or serve):
        raise ConfigError("worker", "name an agent (module:Class) or a model to --serve")
    await run_worker(
        url,
        [parse_target(text) for text in agents],
        name=name,
        model=model,
        serve=serve,
        engine_settings=settings.engine,
        bus_settings=settings.bus,
        drain_timeout=settings.drain_timeout,
        serving=partial(
            _announced, metrics=settings.metrics, stop=stop, until_eof=until_eof, json=json
        ),
        stop=stop,
        keys=keys,
        token=token,
        listen=listen,
    )


@asynccontextmanager
async def _announced(
    bus: Bus, names: list[str], *, metrics: str, stop: anyio.Event, until_eof: bool, json: bool
) -> AsyncGenerator[None]:
    """Let the worker be watched, and say that it is ready."""
    async with operate(bus, metrics) as url, anyio.create_task_group() as group:
        spare_from_collection()
        if json:
            print_json({"ready": names, "metrics": url})
        else:
            print(f"On the bus: {', '.join(names)}. Stop with Ctrl-C.", flush=True)
            _say_metrics(url)
        if until_eof:
            group.start_soon(_set_at_end_of_input, stop)
        yield
        group.cancel_scope.cancel()


async def _renew_on_hangup(
    guard: Guard, rules: Rules, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Read policy and tokens anew when told so; with an error in them, the old ones hold on."""
    with anyio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            try:
                guard.renew(*rules())
            except AgentbusError as error:
                logger.error("the policy stays as it was: %s", error)
            else:
                logger.warning("the policy was read anew")


async def _set_at_end_of_input(stop: anyio.Event) -> None:
    await until_end_of_input()
    stop.set()


def _say_metrics(metrics: str) -> None:
    if metrics:
        print(f"Metrics are at {metrics}.", flush=True)
