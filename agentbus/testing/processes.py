"""`agentbus` commands as processes of their own: started, killed, stopped, and always ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from ..errors import ConfigError

__all__ = ["CommandProcess", "command_process", "worker_process"]

_TIMEOUT = 60.0
"""Bound on each step, in seconds; steps take under one on a machine that does nothing else."""
_LINE = 64 * 1024


class CommandProcess:
    """An `agentbus` command that runs. Its steps raise `TimeoutError` after 60 seconds."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.ready: Any = None
        """What it said when it was ready."""

    async def wait_ready(self) -> None:
        """Wait until it says that it is ready.

        Raises:
            ConfigError: it has ended instead; what it wrote stands in the error.
        """
        if self.process.stdout is None:
            raise ConfigError("command", "it was started without a pipe")
        lines = BufferedByteReceiveStream(self.process.stdout)
        try:
            with anyio.fail_after(_TIMEOUT):
                line = await lines.receive_until(b"\n", _LINE)
        except anyio.IncompleteRead:
            raise ConfigError("command", f"it ended: {await self.errors()}") from None
        self.ready = json.loads(line)["ready"]

    async def terminate(self) -> int:
        """Tell it to end, wait until it has, and return its exit status."""
        self.process.terminate()
        return await self.ended()

    async def kill(self) -> None:
        """End it as a crash does, with SIGKILL."""
        self.process.kill()
        await self.ended()

    def freeze(self) -> None:
        """Stop it: its sockets stay open, and it does nothing until `thaw`."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.process.pid, signal.SIGCONT)

    async def ended(self) -> int:
        """Wait until it has ended; return its exit status."""
        with anyio.fail_after(_TIMEOUT):
            return await self.process.wait()

    async def errors(self) -> str:
        """Return all that it wrote to standard error, once it has ended."""
        if self.process.stderr is None:
            return ""
        with anyio.fail_after(_TIMEOUT):
            return "".join([part.decode() async for part in self.process.stderr])


@asynccontextmanager
async def command_process(
    *arguments: str, folder: Path | None = None
) -> AsyncGenerator[CommandProcess, None]:
    """Run `agentbus ARGUMENTS --json` until the block ends, which need not be ready.

    Args:
        arguments: the command and its own arguments.
        folder: where it runs, and so where it finds modules; here by default.
    """
    process = await anyio.open_process(
        [sys.executable, "-m", "agentbus", *arguments, "--json"],
        stdin=subprocess.DEVNULL,
        cwd=folder,
    )
    try:
        yield CommandProcess(process)
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
            await process.aclose()


@asynccontextmanager
async def worker_process(
    url: str, *arguments: str, folder: Path | None = None
) -> AsyncGenerator[CommandProcess, None]:
    """Run a worker of the bus at `url` until the block ends; enter it when it is ready.

    Args:
        url: of a broker.
        arguments: as for `agentbus worker`: `name=module:Class`, and options.
        folder: as for `command_process`.

    Raises:
        ConfigError: it could not start.
    """
    async with command_process("worker", "--bus", url, *arguments, folder=folder) as started:
        await started.wait_ready()
        yield started
