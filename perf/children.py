"""Child processes of a measurement: started, heard when ready, and always ended.

A child says `ready` on its standard output and leaves when its standard input ends, so it cannot
outlive a parent that was killed. What the lines in between mean is their users' business.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .workloads import settle_gc

__all__ = ["READY", "Child", "ChildFailed", "announce_and_wait", "child", "python_child"]

READY = "ready"
START_TIMEOUT_S = 120.0
"""Most contenders are up within a second, one with very many agents within a minute or two."""
CLOSE_TIMEOUT_S = 5.0
LINE_LIMIT = 64 * 1024
"""Longest line that is read from a child, in bytes."""

_ROOT = Path(__file__).resolve().parents[1]


class ChildFailed(Exception):
    """A child process ended, or said nothing in time, or said something else than expected."""


@dataclass(frozen=True, slots=True)
class Child:
    """A running child process."""

    name: str
    process: Process

    async def hear(self, timeout_s: float) -> str:
        """Return the child's next line.

        Raises:
            ChildFailed: it ended, or was silent for `timeout_s`, or the line is too long.
        """
        stdout = self.process.stdout
        if stdout is None:
            raise ChildFailed(f"{self.name} was started without a pipe")
        try:
            async with asyncio.timeout(timeout_s):
                line = await stdout.readline()
        except TimeoutError:
            raise ChildFailed(f"{self.name} was silent for {timeout_s:.0f} s") from None
        except ValueError:
            raise ChildFailed(f"{self.name} wrote a line over {LINE_LIMIT} bytes") from None
        if not line:
            raise ChildFailed(f"{self.name} ended early; what it wrote stands above")
        return line.decode(errors="replace").rstrip("\n")

    async def ready(self) -> None:
        """Wait until the child says that it is ready.

        Raises:
            ChildFailed: it does not.
        """
        line = await self.hear(START_TIMEOUT_S)
        if line != READY:
            raise ChildFailed(f"{self.name} wrote {line[:80]!r} instead of {READY!r}")

    async def tell(self, line: str) -> None:
        """Write one line to the child; a child that is gone is noticed by the next `hear`."""
        stdin = self.process.stdin
        if stdin is not None:
            with suppress(ConnectionError):
                stdin.write(line.encode() + b"\n")
                await stdin.drain()


@asynccontextmanager
async def child(
    name: str, *argv: str, own_group: bool = False, errors_too: bool = False
) -> AsyncGenerator[Child, None]:
    """Run `argv` while the block runs; end it, kindly at first, when the block ends.

    Args:
        own_group: the child leads a process group, all of which is killed at the end.
        errors_too: standard error is heard like standard output.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=PIPE,
        stdout=PIPE,
        stderr=asyncio.subprocess.STDOUT if errors_too else None,
        limit=LINE_LIMIT,
        cwd=_ROOT,
        start_new_session=own_group,
    )
    try:
        yield Child(name, process)
    finally:
        await _end(process, own_group=own_group)


@asynccontextmanager
async def python_child(
    name: str, module: str, *arguments: str, own_group: bool = False
) -> AsyncGenerator[Child, None]:
    """Run `python -m module arguments…` while the block runs; enter it when it is ready.

    Raises:
        ChildFailed: it did not become ready.
    """
    argv = (sys.executable, "-m", module, *arguments)
    async with child(name, *argv, own_group=own_group) as started:
        await started.ready()
        yield started


async def _end(process: Process, *, own_group: bool) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
    finally:
        if own_group:
            # Also when the leader has ended: a crashed leader may leave its own children behind.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


async def announce_and_wait() -> None:
    """In a child that serves: say that it is ready, and return when the parent is gone."""
    settle_gc()
    print(READY, flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)
