"""The parent's side of helper processes: start, wait until ready, always end.

What the two sides say to each other is written in `serving`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import anyio
import orjson
from anyio.abc import ByteSendStream, Process
from anyio.streams.buffered import BufferedByteReceiveStream

from ..errors import MalformedFrame, PeerLost, restore

__all__ = ["START_TIMEOUT_S", "STOP_TIMEOUT_S", "ServingChild", "serving_child"]

START_TIMEOUT_S = 180.0
"""A first start may have to convert the model's weights."""
STOP_TIMEOUT_S = 5.0
"""Time that a child has to end by itself before it is killed."""
_MAX_ANSWER_BYTES = 64 * 1024


class ServingChild:
    """A process that is an HTTP server, or is on its way to be one."""

    def __init__(self, process: Process, module: str) -> None:
        self._process = process
        self._module = module

    async def url(self) -> str:
        """Wait until it serves, and return where.

        Raises:
            PeerLost: the child ended, or said nothing for `START_TIMEOUT_S`.
            AgentbusError: the child could not start; it is the same class as there.
        """
        match await self._answer():
            case {"port": int(port)}:
                return f"http://127.0.0.1:{port}"
            case {"error": {"code": str(code), "fields": dict(fields)}}:
                raise restore(code, fields)
            case _:
                raise MalformedFrame(f"{self._module} did not say that it is ready")

    async def _answer(self) -> object:
        if self._process.stdout is None:
            raise PeerLost(self._module)
        answers = BufferedByteReceiveStream(self._process.stdout)
        try:
            with anyio.fail_after(START_TIMEOUT_S):
                return orjson.loads(await answers.receive_until(b"\n", _MAX_ANSWER_BYTES))
        except (TimeoutError, anyio.IncompleteRead, anyio.DelimiterNotFound) as error:
            raise PeerLost(self._module) from error


@asynccontextmanager
async def serving_child(
    module: str, settings: Mapping[str, object]
) -> AsyncGenerator[ServingChild, None]:
    """Run `python -m module` as an HTTP server. It begins at once, and ends with the block.

    Raises:
        PeerLost: the child ended before it was told its settings.
    """
    process = await anyio.open_process(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None,
        start_new_session=True,  # an interrupt reaches the parent alone, which ends its children
    )
    try:
        await _tell(process, module, settings)
        yield ServingChild(process, module)
    finally:
        await _stop(process)


async def _tell(process: Process, module: str, settings: Mapping[str, object]) -> None:
    if process.stdin is None:
        raise PeerLost(module)
    try:
        with anyio.fail_after(START_TIMEOUT_S):
            await process.stdin.send(orjson.dumps(settings) + b"\n")
    except (TimeoutError, anyio.BrokenResourceError) as error:
        raise PeerLost(module) from error


async def _stop(process: Process) -> None:
    with anyio.CancelScope(shield=True):
        await _end_input(process.stdin)
        with anyio.move_on_after(STOP_TIMEOUT_S):
            await process.wait()
        if process.returncode is None:
            process.kill()
        await process.aclose()


async def _end_input(stdin: ByteSendStream | None) -> None:
    if stdin is not None:
        await stdin.aclose()
