"""Runs `agentbus` commands as processes of their own: started, ready, always ended."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

ROOT = Path(__file__).parent.parent.parent
AGENTS = "tests.system.agents"
TIMEOUT = 60.0
"""Bound on each step, in seconds; steps take under one on a machine that does nothing else."""
_LINE = 64 * 1024


class Running:
    """A command that said that it is ready."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.ready: Any = None

    async def wait_ready(self) -> None:
        assert self.process.stdout is not None
        lines = BufferedByteReceiveStream(self.process.stdout)
        try:
            with anyio.fail_after(TIMEOUT):
                line = await lines.receive_until(b"\n", _LINE)
        except anyio.IncompleteRead:
            raise AssertionError(f"the command ended: {await self.errors()}") from None
        self.ready = json.loads(line)["ready"]

    async def terminate(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.terminate()
        return await self.ended()

    async def kill(self) -> None:
        """End the process as kill -9 does."""
        self.process.kill()
        await self.ended()

    async def ended(self) -> int:
        with anyio.fail_after(TIMEOUT):
            return await self.process.wait()

    async def errors(self) -> str:
        """Return all that an ended process wrote to standard error."""
        assert self.process.stderr is not None
        with anyio.fail_after(TIMEOUT):
            return "".join([part.decode() async for part in self.process.stderr])


@asynccontextmanager
async def starting(arguments: Sequence[str]) -> AsyncGenerator[Running, None]:
    """Run a command with `--json` until the block ends, which need not be ready."""
    process = await anyio.open_process(
        [sys.executable, "-m", "agentbus", *arguments, "--json"],
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        yield Running(process)
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
            await process.aclose()


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
