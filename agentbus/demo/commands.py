"""Runs modules that serve, such as `agentbus`, as child processes: start, wait until ready, always
end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio
import orjson
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from ..errors import MalformedFrame, PeerLost, restore
from .children import START_TIMEOUT_S, STOP_TIMEOUT_S

__all__ = ["running"]

_MAX_LINE_BYTES = 64 * 1024


@asynccontextmanager
async def running(arguments: Sequence[str]) -> AsyncGenerator[None, None]:
    """Run `python -m …` in the background from the moment when it says that it is ready.

    It ends once its standard input does.

    Raises:
        PeerLost: it ended, or said nothing for `START_TIMEOUT_S`.
        AgentbusError: it could not start; the same class as there.
    """
    process = await anyio.open_process(
        [sys.executable, "-m", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None,
        start_new_session=True,  # an interrupt reaches the parent alone, which ends its children
    )
    try:
        await _ready(process, " ".join(arguments[:2]))
        yield
    finally:
        await _stop(process)


async def _ready(process: Process, name: str) -> None:
    if process.stdout is None:
        raise PeerLost(name)
    lines = BufferedByteReceiveStream(process.stdout)
    try:
        with anyio.fail_after(START_TIMEOUT_S):
            line = await lines.receive_until(b"\n", _MAX_LINE_BYTES)
    except (TimeoutError, anyio.IncompleteRead, anyio.DelimiterNotFound) as error:
        raise PeerLost(name) from error
    try:
        said = orjson.loads(line)
    except orjson.JSONDecodeError:
        said = None
    match said:
        case {"ready": _}:
            return
        case {"error": {"code": str(code), "fields": dict(fields)}}:
            raise restore(code, fields)
        case _:
            raise MalformedFrame(f"{name} did not say that it is ready")


async def _stop(process: Process) -> None:
    with anyio.CancelScope(shield=True):
        if process.stdin is not None:
            await process.stdin.aclose()
        with anyio.move_on_after(STOP_TIMEOUT_S):
            await process.wait()
        if process.returncode is None:
            process.kill()
        await process.aclose()
