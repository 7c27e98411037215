"""The streams' tokens, how late they come, and short runs of the contenders."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import asynccontextmanager
from time import monotonic_ns

import anyio
import pytest

from perf.peers import GRPC
from perf.rounds import interleave
from perf.ticker import can_tick, ticking
from perf.tokens import PERIOD_NS, STREAMS, Ask, Producer, Reader
from perf.workloads import Load, WrongReply

BRIEF = Load(rounds=1, warmup_s=0.02, latency_s=0.0, rate_s=0.02, open_s=0.03)
MS = 1_000_000
pytestmark = pytest.mark.skipif(not can_tick(), reason="timers for the loop to wait on are Linux's")


@asynccontextmanager
async def _producer() -> AsyncGenerator[Producer, None]:
    producer = Producer()
    running = asyncio.create_task(producer.run())
    with anyio.fail_after(10):
        yield producer
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


@pytest.mark.anyio
async def test_ticks_come_at_even_distances_from_the_start() -> None:
    with anyio.fail_after(10), ticking(2 * MS) as ticker:
        for number in range(1, 4):
            await ticker.wait()
            assert monotonic_ns() >= ticker.start_ns + number * 2 * MS


@pytest.mark.anyio
async def test_a_paced_token_is_its_moment_and_never_early() -> None:
    async with _producer() as producer:
        seen = [
            (int(due), monotonic_ns()) async for due in producer.tokens(Ask(count=4, paced=True))
        ]
    assert all(due <= now for due, now in seen)
    assert [due - seen[0][0] for due, _ in seen] == [n * PERIOD_NS for n in range(4)]


@pytest.mark.anyio
async def test_who_reads_late_still_gets_every_moment() -> None:
    async with _producer() as producer:
        tokens = producer.tokens(Ask(count=3, paced=True))
        first = int(await anext(tokens))
        with ticking(3 * PERIOD_NS) as late:
            await late.wait()
        rest = [int(due) async for due in tokens]
    assert rest == [first + PERIOD_NS, first + 2 * PERIOD_NS]


@pytest.mark.anyio
async def test_lateness_counts_from_the_moment_and_covers_every_stream() -> None:
    @asynccontextmanager
    async def stream(ask: Ask) -> AsyncGenerator[AsyncIterable[str], None]:
        async def tokens() -> AsyncGenerator[str, None]:
            for _ in range(ask.count):
                yield str(monotonic_ns() - 5 * MS)

        yield tokens()

    late = await Reader(stream).lateness(0.02)
    assert len(late) == 2 * STREAMS
    assert min(late) >= 5 * MS


async def _zeros(count: int) -> AsyncGenerator[str, None]:
    for _ in range(count):
        yield "0"


@pytest.mark.anyio
async def test_a_stream_that_lacks_tokens_is_refused() -> None:
    @asynccontextmanager
    async def stream(ask: Ask) -> AsyncGenerator[AsyncIterable[str], None]:
        yield _zeros(ask.count - 1)

    with pytest.raises(WrongReply):
        await Reader(stream).per_token_us(0.0)
    with pytest.raises(WrongReply):
        await Reader(stream).lateness(0.02)


async def _figures(target: str) -> dict[str, float]:
    results = await interleave({"one": target}, BRIEF, lambda what: None, "perf.tokens:measure")
    return results["one"]


@pytest.mark.anyio
async def test_agentbus_streams() -> None:
    figures = await _figures("perf.micro.stream_side:contend")
    assert figures["per_token_us"] > 0
    assert 0 < figures["added_p50_ms"] <= figures["added_p99_ms"] <= figures["added_p999_ms"]


@pytest.mark.anyio
@pytest.mark.skipif(bool(GRPC.missing()), reason="the peer is not installed")
async def test_grpc_streams() -> None:
    figures = await _figures("perf.peers.grpc_stream:contend")
    assert figures["per_token_us"] > 0
    assert 0 < figures["added_p50_ms"] <= figures["added_p99_ms"]
