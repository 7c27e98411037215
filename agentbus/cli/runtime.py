"""What all commands share: the default socket, the event loop, signals, errors as one sentence."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, NoReturn

import anyio
import orjson

from ..errors import AgentbusError, describe
from .terminal import print_line, visible

__all__ = ["default_url", "fail", "json_text", "print_json", "run", "serve", "until_end_of_input"]


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
    print(f"agentbus: {visible(message)}", file=sys.stderr)
    raise SystemExit(1)


def print_json(value: Any) -> None:
    """Print one JSON object on one line."""
    print_line(json_text(value))


def json_text(value: Any, *, indent: bool = False) -> str:
    """Return anybody's value as JSON; what JSON has no form for is written as a text."""
    try:
        option = orjson.OPT_INDENT_2 if indent else 0
        return orjson.dumps(value, default=str, option=option).decode()
    except TypeError:  # half a character, a huge number, a key that is no text, or many levels
        pass
    try:
        return json.dumps(_with_text_keys(value), default=str, indent=2 if indent else None)
    except RecursionError:
        return json.dumps(f"a {type(value).__name__} of too many levels")


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(inner) for key, inner in value.items()}
    return [_with_text_keys(inner) for inner in value] if isinstance(value, list) else value


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def run(job: Callable[[], Coroutine[Any, Any, None]], *, json: bool = False) -> None:
    """Run a command's job; an error of agentbus becomes one sentence, not a traceback.

    SIGINT and SIGTERM cancel the job, so that it cleans up. With `json` an error is printed as an
    object, for a program that runs the command.
    """
    stopped = _run(lambda _: job(), gracefully=False, json=json)
    if stopped:
        raise SystemExit(128 + stopped)


def serve(job: Callable[[anyio.Event], Coroutine[Any, Any, None]], *, json: bool = False) -> None:
    """Run the job of a command that serves until it is stopped, which is its success.

    SIGINT or SIGTERM sets the event that the job is given, if the job waits for it; before that,
    and after, a signal cancels the job.
    Errors are printed as `run` does.
    """
    _run(job, gracefully=True, json=json)


def _run(
    job: Callable[[anyio.Event], Coroutine[Any, Any, None]], *, gracefully: bool, json: bool
) -> int:
    """Run a job; returns the signal that stopped it, or 0."""
    try:
        return anyio.run(_until_signal, job, gracefully, backend_options={"use_uvloop": True})
    except (AgentbusError, BaseExceptionGroup) as error:
        known = [leaf for leaf in _leaves(error) if isinstance(leaf, AgentbusError)]
        if not known:
            # rich ends the command where nobody reads what it prints.
            for leaf in _leaves(error):
                if isinstance(leaf, SystemExit):
                    raise leaf from None
            raise
        if json:
            code, fields = describe(known[0])
            print_json({"error": {"code": code, "fields": fields, "text": str(known[0])}})
            raise SystemExit(1) from None
        fail(str(known[0]))


async def _until_signal(
    job: Callable[[anyio.Event], Coroutine[Any, Any, None]], gracefully: bool
) -> int:
    stopped = 0
    stop = anyio.Event()

    async def watch(scope: anyio.CancelScope) -> None:
        nonlocal stopped
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                stopped = number
                if gracefully and stop.statistics().tasks_waiting:
                    stop.set()
                else:
                    scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch, group.cancel_scope)
        await job(stop)
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
