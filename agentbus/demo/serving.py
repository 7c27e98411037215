"""The child's side of a helper process: settings in, readiness out, an HTTP server between.

The parent writes one JSON line to the child's standard input and closes it to end the child. The
child answers one JSON line, `{"port": …}` or `{"error": …}`; after that its standard output is its
standard error, so that no library's print can fill the pipe. `children` has the parent's side.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from ..errors import AgentbusError, TooLarge, describe
from ..ops import spare_from_collection
from .sse import encode_event

__all__ = ["MAX_BODY_BYTES", "MAX_LINE_BYTES", "bad_request", "event_stream", "read_json", "serve"]

MAX_BODY_BYTES = 16 * 1024 * 1024
"""Largest request that a server takes."""
MAX_LINE_BYTES = 16 * 1024 * 1024
"""Largest settings line."""
KEEP_ALIVE_S = 3600
"""Connections outlive the pauses in which other ways have their turn."""
GRACE_S = 2
_BACKLOG = 64

Build = Callable[[Mapping[str, Any]], AbstractAsyncContextManager[Starlette]]


def serve(build: Build) -> None:
    """Run the application that `build` makes of the parent's settings, until the parent ends."""
    anyio.run(_serve, build, backend_options={"use_uvloop": True})


async def _serve(build: Build) -> None:
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    settings = orjson.loads(await reader.readline())
    try:
        async with build(settings) as app, anyio.create_task_group() as tasks:
            listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
            server = uvicorn.Server(_uvicorn_config(app))
            tasks.start_soon(_stop_at_end, reader, server)
            spare_from_collection()  # as agentbus's own processes do
            _answer(answer, {"port": listener.getsockname()[1]})
            await server.serve(sockets=[listener])
            tasks.cancel_scope.cancel()
    except AgentbusError as error:
        code, fields = describe(error)
        _answer(answer, {"error": {"code": code, "fields": fields}})


def _uvicorn_config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )


async def _stop_at_end(reader: asyncio.StreamReader, server: uvicorn.Server) -> None:
    await reader.read()
    server.should_exit = True


def _answer(file: Any, data: Mapping[str, object]) -> None:
    file.write(orjson.dumps(data) + b"\n")
    file.flush()


async def read_json(request: Request) -> object:
    """Read a request's body.

    Raises:
        TooLarge: it is over `MAX_BODY_BYTES`.
        ValueError: it is not JSON.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge("request body", len(body), MAX_BODY_BYTES)
    return orjson.loads(body)


def bad_request(error: Exception) -> Response:
    """Answer a request that cannot be understood."""
    return JSONResponse({"error": {"message": str(error)}}, status_code=400)


def _error_event(error: AgentbusError) -> bytes:
    code, fields = describe(error)
    return encode_event({"error": {"code": code, "fields": fields, "message": str(error)}})


def event_stream(events: AsyncGenerator[bytes, None]) -> StreamingResponse:
    """Answer with events as they come. A typed error becomes the last one."""
    return StreamingResponse(_closing_on_error(events), media_type="text/event-stream")


async def _closing_on_error(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    try:
        async for event in events:
            yield event
    except AgentbusError as error:
        yield _error_event(error)
    finally:
        await events.aclose()
