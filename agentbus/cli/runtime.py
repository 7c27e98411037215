"""What all commands share: the default socket, the event loop, signals, errors as one sentence."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

import anyio
import orjson

from ..errors import AgentbusError, describe

__all__ = ["default_url", "fail", "print_json", "run", "until_end_of_input"]


def default_url() -> str:
    """Return `AGENTBUS_URL`, or the socket of this user's daemon."""
    given = os.environ.get("AGENTBUS_URL")
    if given:
        return given
    base = os.environ.get("XDG_RUNTIME_DIR")
    folder = (
        Path(base) / "agentbus" if base else Path(tempfile.gettempdir()) / f"agentbus-{os.getuid()}"
    )
    return f"unix://{folder / 'bus.sock'}"


def fail(message: str) -> NoReturn:
    """Print one sentence and end with status 1."""
    print(f"agentbus: {message}", file=sys.stderr)
    raise SystemExit(1)


def print_json(value: Any) -> None:
    """Print one JSON object on one line."""
    print(orjson.dumps(value, default=str).decode(), flush=True)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def run(
    job: Callable[[], Coroutine[Any, Any, None]], *, json: bool = False, serves: bool = False
) -> None:
    """Run a command's job; an error of agentbus becomes one sentence, not a traceback.

    SIGINT and SIGTERM cancel the job, so that it cleans up. With `json` an error is printed as an
    object, for a program that runs the command. A command that `serves` runs until it is stopped,
    and being stopped is its success.
    """
    try:
        stopped = anyio.run(_until_signal, job, backend_options={"use_uvloop": True})
    except (AgentbusError, BaseExceptionGroup) as error:
        known = [leaf for leaf in _leaves(error) if isinstance(leaf, AgentbusError)]
        if not known:
            raise
        if json:
            code, fields = describe(known[0])
            print_json({"error": {"code": code, "fields": fields, "text": str(known[0])}})
            raise SystemExit(1) from None
        fail(str(known[0]))
    if stopped and not serves:
        raise SystemExit(128 + stopped)


async def _until_signal(job: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run a job; returns the signal that stopped it, or 0."""
    stopped = 0

    async def watch(scope: anyio.CancelScope) -> None:
        nonlocal stopped
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                stopped = number
                scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch, group.cancel_scope)
        await job()
        group.cancel_scope.cancel()
    return stopped


async def until_end_of_input() -> None:
    """Wait until standard input ends: until the program that started this one has."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def read() -> None:
        while os.read(0, 4096):
            pass
        with contextlib.suppress(RuntimeError):  # the loop has ended before the input
            loop.call_soon_threadsafe(ended.set)

    # A thread of the pool would be waited for at the end of the process, input or no input.
    threading.Thread(target=read, name="agentbus-stdin", daemon=True).start()
    await ended.wait()
