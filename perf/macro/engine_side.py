"""agentbus's torch engine under the asks of the suite `engine`: in the asking process, and served
over a Unix socket by another.

`python -m perf.macro.engine_side PATH FOLDER THREADS` serves the model in FOLDER.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import ClassVar, NamedTuple

import uvloop

from agentbus import Agent, Bus, Call, handler
from agentbus.config import EngineSettings
from agentbus.engine import Engine, Finished, GenerateRequest, open_engine

from ..children import announce_and_wait, python_child
from .engine_asks import MAX_BATCH, READER, Answer, Asked, in_process

__all__ = ["inproc", "serve", "settings", "unix"]

KV_TOKENS = 65536
"""Room for all prompts of a run, as the peers have it."""
ANSWER_TIMEOUT_S = 600.0


def settings(threads: int) -> EngineSettings:
    """Return how the engine is run."""
    return EngineSettings(dtype="bfloat16", threads=threads, kv_tokens=KV_TOKENS)


class InProcess:
    """The engine, asked by its contract with token ids."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def answer(
        self, prompts: Sequence[Asked], max_tokens: int, salt: str
    ) -> Sequence[Answer]:
        """Ask all at once."""
        return await asyncio.gather(*(self._one(p, max_tokens, salt) for p in prompts))

    async def _one(self, asked: Asked, max_tokens: int, salt: str) -> Answer:
        request = GenerateRequest(
            prompt=asked.ids, max_tokens=max_tokens, ignore_end=True, tenant=salt
        )
        begun = perf_counter()
        first, last, tokens, reused = 0.0, 0.0, 0, 0
        async with aclosing(self._engine.generate(request)) as items:
            async for item in items:
                if isinstance(item, Finished):
                    reused = item.usage.reused_tokens
                elif item.token_ids:
                    last = perf_counter()
                    first = first or last
                    tokens += len(item.token_ids)
        return in_process(asked=begun, first=first, last=last, tokens=tokens, reused=reused)


class Read(NamedTuple):
    """Have your model read this."""

    document: str
    ask: str
    max_tokens: int
    salt: str


class Timed(NamedTuple):
    """When the model's answer came."""

    asked: float
    first: float
    last: float
    tokens: int
    reused: int


class Reader(Agent):
    """Asks its model, and tells when the answer came."""

    concurrency: ClassVar[int] = MAX_BATCH

    @handler
    async def read(self, read: Read, call: Call) -> Timed:
        """Ask the model on a context of that document and ask."""
        context = call.empty_context().document(read.document)
        call.context = context.ask(read.ask) if read.ask else context
        begun = perf_counter()
        first, last = 0.0, 0.0
        answer = call.generate_stream(max_tokens=read.max_tokens, ignore_end=True, salt=read.salt)
        async with aclosing(answer) as parts:
            async for _ in parts:
                last = perf_counter()
                first = first or last
        return Timed(begun, first, last, call.cost.decoded_tokens, call.cost.reused_tokens)


class OverTheBus:
    """The engine, asked by an agent whose model another process serves."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def answer(
        self, prompts: Sequence[Asked], max_tokens: int, salt: str
    ) -> Sequence[Answer]:
        """Ask all at once."""
        return await asyncio.gather(*(self._one(p, max_tokens, salt) for p in prompts))

    async def _one(self, asked: Asked, max_tokens: int, salt: str) -> Answer:
        read = Read(asked.document, asked.ask, max_tokens, salt)
        timed = await self._bus.request(READER, read, returns=Timed, deadline=ANSWER_TIMEOUT_S)
        return Answer(**timed._asdict())


@asynccontextmanager
async def inproc(folder: Path, threads: int) -> AsyncGenerator[InProcess, None]:
    """Open the engine in this process."""
    engine = await open_engine(str(folder), settings(threads))
    try:
        yield InProcess(engine)
    finally:
        await engine.aclose()


@asynccontextmanager
async def unix(folder: Path, threads: int) -> AsyncGenerator[OverTheBus, None]:
    """Start the process that serves the engine, and put an agent on its bus."""
    with TemporaryDirectory(prefix="perf-") as sockets:
        path = str(Path(sockets, "bus.sock"))
        argv = (path, str(folder), str(threads))
        async with (
            python_child("agentbus's engine", "perf.macro.engine_side", *argv),
            Bus.open(f"unix://{path}") as bus,
        ):
            await bus.spawn(Reader, name=READER, model=str(folder))
            yield OverTheBus(bus)


async def serve(path: str, folder: str, threads: int) -> None:
    """Serve the engine on the socket `path` until the parent leaves."""
    async with Bus.open(listen=path) as bus:
        await bus.serve(folder, settings(threads))
        await announce_and_wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], sys.argv[2], int(sys.argv[3])))
