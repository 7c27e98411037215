"""What all commands share: the default socket, the event loop, signals, errors as one sentence."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

import anyio
import orjson

from ..errors import AgentbusError, describe

__all__ = ["default_url", "fail", "print_json", "run", "until_signal"]


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


def run(job: Callable[[], Coroutine[Any, Any, None]], *, json: bool = False) -> None:
    """Run a command's job; an error of agentbus becomes one sentence, not a traceback.

    With `json` it is printed as an object too, for a program that runs the command.
    """
    try:
        anyio.run(job, backend_options={"use_uvloop": True})
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (AgentbusError, BaseExceptionGroup) as error:
        known = [leaf for leaf in _leaves(error) if isinstance(leaf, AgentbusError)]
        if not known:
            raise
        if json:
            code, fields = describe(known[0])
            print_json({"error": {"code": code, "fields": fields, "text": str(known[0])}})
            raise SystemExit(1) from None
        fail(str(known[0]))


async def until_signal() -> None:
    """Wait for SIGINT or SIGTERM."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            return
