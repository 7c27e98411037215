"""The load of the suite `stream`: tokens flat out on one stream, and paced on many at once.

Producer and reader are on one host and share the monotonic clock: a paced token is the moment at
which it was due, as text, and its reader notes how late it came. How a stream travels is the
contenders' business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from time import monotonic_ns, perf_counter_ns

from pydantic import BaseModel

from .ticker import can_tick, ticking
from .workloads import NS_PER_S, NS_PER_US, Load, WrongReply, percentile

__all__ = ["STREAMS", "TOKENS_PER_S", "Ask", "Producer", "Reader", "measure"]

TOKEN = " token"
FLAT_TOKENS = 2_000
"""Tokens of one stream that runs flat out."""
STREAMS = 64
TOKENS_PER_S = 100
PERIOD_NS = NS_PER_S // TOKENS_PER_S
NS_PER_MS = 1_000_000


class Ask(BaseModel):
    """Asks for a stream of tokens."""

    count: int
    paced: bool


class Producer:
    """Makes the tokens of a process. All paced streams have theirs due at the same moments, as
    those of an engine that decodes in batches have."""

    def __init__(self) -> None:
        self._moment = 0
        """The last moment that has come, in ns of the monotonic clock."""
        self._ticked = asyncio.Event()

    async def tokens(self, ask: Ask) -> AsyncGenerator[str, None]:
        """Yield tokens as fast as they are taken, or each when it is due and never before."""
        if not ask.paced:
            for _ in range(ask.count):
                yield TOKEN
            return
        first = self._moment + PERIOD_NS
        for number in range(ask.count):
            due = first + number * PERIOD_NS
            while self._moment < due:
                await self._ticked.wait()
            yield str(due)

    async def run(self) -> None:
        """Let the moments come, until cancelled."""
        with ticking(PERIOD_NS) as ticker:
            start = self._moment = ticker.start_ns
            while True:
                await ticker.wait()
                self._moment = start + (monotonic_ns() - start) // PERIOD_NS * PERIOD_NS
                ticked, self._ticked = self._ticked, asyncio.Event()
                ticked.set()


@dataclass(frozen=True, slots=True)
class Reader:
    """A contender: opens a stream, whose tokens are text or its bytes."""

    stream: Callable[[Ask], AbstractAsyncContextManager[AsyncIterable[str | bytes]]]

    async def per_token_us(self, seconds: float) -> float:
        """Read one stream after another, flat out; return the time that each token took.

        Raises:
            WrongReply: a stream had fewer tokens than asked for.
        """
        start = perf_counter_ns()
        end, tokens, streams = start + int(seconds * NS_PER_S), 0, 0
        while streams == 0 or perf_counter_ns() < end:
            async with self.stream(Ask(count=FLAT_TOKENS, paced=False)) as parts:
                async for _ in parts:
                    tokens += 1
            streams += 1
        taken = perf_counter_ns() - start
        if tokens != streams * FLAT_TOKENS:
            raise WrongReply(f"{tokens} tokens in {streams} streams of {FLAT_TOKENS}")
        return taken / tokens / NS_PER_US

    async def lateness(self, seconds: float) -> list[int]:
        """Read `STREAMS` paced streams at once; return how late each token came, in ns.

        Raises:
            WrongReply: tokens are missing.
        """
        count = max(1, int(seconds * TOKENS_PER_S))
        late: list[int] = []
        async with asyncio.TaskGroup() as group:
            for _ in range(STREAMS):
                group.create_task(self._note_late(count, late))
        if len(late) != count * STREAMS:
            raise WrongReply(f"{len(late)} tokens in {STREAMS} streams of {count}")
        return late

    async def _note_late(self, count: int, late: list[int]) -> None:
        async with self.stream(Ask(count=count, paced=True)) as parts:
            late += [monotonic_ns() - int(due) async for due in parts]


async def measure(reader: Reader, load: Load) -> dict[str, float]:
    """Drive one round: one stream flat out, then many paced ones where the system can pace."""
    result = {"per_token_us": await reader.per_token_us(load.rate_s)}
    if can_tick():
        late = await reader.lateness(load.open_s or load.rate_s)
        shares = {"added_p50_ms": 0.50, "added_p99_ms": 0.99, "added_p999_ms": 0.999}
        result |= {name: percentile(late, share) / NS_PER_MS for name, share in shares.items()}
    return result
