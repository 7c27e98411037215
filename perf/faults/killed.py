"""Faults of whole processes: killed at any moment, or stopped and let go on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from agentbus import Bus, Keys
from agentbus.daemon import start_broker
from agentbus.errors import AgentbusError
from agentbus.transport import TCP_SCHEME

from ..children import Child, python_child
from .cases import HEALTHY, LOOPBACK, Case, Happening, new_keys
from .work import Outcome, check_lane, work

__all__ = ["FREEZE", "KILL", "KILLED"]

KILL = "kill"
FREEZE = "freeze"
THAWED_S = 5.0
"""In which a process that goes on answers."""


async def _case(case: Case, child: Child, bus: Bus, outcome: Outcome) -> None:
    pid = child.process.pid
    await bus.request("clerk", "asker", returns=list[int])
    async with asyncio.TaskGroup() as group:
        group.create_task(work(bus, "clerk", "asker", outcome))
        await asyncio.sleep(case.fault.seconds / 40)  # in the midst of it
        os.kill(pid, signal.SIGKILL if case.kind == KILL else signal.SIGSTOP)
        outcome.happened = True
    if case.kind == KILL:
        with contextlib.suppress(AgentbusError):
            answer = await bus.request("clerk", "asker", returns=list[int])
            outcome.violations.append(f"a killed process answers {answer}")
    else:
        os.kill(pid, signal.SIGCONT)
        handled = await bus.request("clerk", "asker", returns=list[int], deadline=THAWED_S)
        check_lane("items", handled, outcome)
    if left := bus.report().under_way:
        outcome.violations.append(f"{left} requests are left at the asker")


@asynccontextmanager
async def _child(mode: str, url: str, folder: Path) -> AsyncGenerator[Child, None]:
    name = "the process to kill"
    async with python_child(name, "perf.faults.child", mode, url, str(folder)) as child:
        yield child


async def _beside(case: Case, url: str, keys: Keys | None, folder: Path, out: Outcome) -> None:
    """The asker joins the process that is to be killed."""
    async with AsyncExitStack() as stack:
        child = await stack.enter_async_context(_child("listen", url, folder))
        join = url if keys is not None else f"unix://{url}"
        bus = Bus.open(join, name="asker", settings=HEALTHY, keys=keys)
        await _case(case, child, await stack.enter_async_context(bus), out)
    if keys is None:  # whoever comes next at this path clears it away
        with contextlib.suppress(FileNotFoundError):
            os.unlink(url)


async def _unix(case: Case, folder: Path, outcome: Outcome) -> None:
    await _beside(case, f"{folder}/run/bus.sock", None, folder, outcome)


async def _tcp(case: Case, folder: Path, outcome: Outcome) -> None:
    _, joining = new_keys(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"{TCP_SCHEME}127.0.0.1:{probe.getsockname()[1]}"
    await _beside(case, url, joining, folder, outcome)


async def _relayed(case: Case, folder: Path, outcome: Outcome) -> None:
    """A broker carries on to the process that is to be killed."""
    listening, joining = new_keys(folder)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        home = await enter(Bus.open(listen=LOOPBACK, name="home", settings=HEALTHY, keys=listening))
        await start_broker(home)
        child = await enter(_child("join", home.listens_at, folder))
        bus = Bus.open(home.listens_at, name="asker", settings=HEALTHY, keys=joining)
        await _case(case, child, await enter(bus), outcome)


KILLED: Mapping[str, Happening] = {
    "unix": _unix,
    "tcp": _tcp,
    "relayed": _relayed,
}
"""As `cases.WAYS`, with the clerk in a process of its own."""
