"""Runs `agentbus` commands as processes of their own: started, ready, always ended."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio

from agentbus.testing import CommandProcess, command_process

ROOT = Path(__file__).parent.parent.parent
AGENTS = "tests.system.agents"
TIMEOUT = 60.0
"""Bound on each step, in seconds; steps take under one on a machine that does nothing else."""


Running = CommandProcess


def starting(arguments: Sequence[str]) -> AbstractAsyncContextManager[Running]:
    """Run a command with `--json` until the block ends, which need not be ready."""
    return command_process(*arguments, folder=ROOT)


@asynccontextmanager
async def running(*commands: Sequence[str]) -> AsyncGenerator[list[Running], None]:
    """Run commands with `--json` until the block ends, from the moment when all are ready."""
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(starting(command)) for command in commands]
        for command in started:
            await command.wait_ready()
        yield started


def url_of(folder: Path) -> str:
    """Return the url of the bus whose socket is in a folder."""
    return f"unix://{folder}/run/bus.sock"


@asynccontextmanager
async def broker(folder: Path) -> AsyncGenerator[tuple[str, Running], None]:
    """Run a broker; yields its url."""
    url = url_of(folder)
    async with running(["up", "--bus", url]) as [command]:
        yield url, command


def worker(url: str, *arguments: str) -> list[str]:
    """Return the command that starts a worker."""
    return ["worker", "--bus", url, *arguments]


def agent(name: str, kind: str) -> str:
    """Return what names an agent of these tests on the command line."""
    return f"{name}={AGENTS}:{kind}"


async def finished(*arguments: str) -> tuple[int, str, str]:
    """Run a command to its end; returns exit status, standard output, standard error."""
    with anyio.fail_after(TIMEOUT):
        done = await anyio.run_process(
            [sys.executable, "-m", "agentbus", *arguments], cwd=ROOT, check=False
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()
