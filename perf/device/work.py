"""What is asked of an engine on a device, by its contract: prompts of token ids, all at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from time import perf_counter

from agentbus.engine import Engine, Finished, GenerateRequest

__all__ = ["FULL", "SMALL", "Ids", "Times", "Work", "ask", "prompts", "shared_prompts", "warm_up"]

Ids = tuple[int, ...]

_FIRST_ID = 300
"""Ids from here on are ordinary tokens in every folder that `shapes` writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """How much is asked. All but `repeats` and `batches` in tokens or requests."""

    batches: tuple[int, ...]
    prompt: int
    """Length of the prompts that are decoded from."""
    decoded: int
    cached: int
    new: int
    requests: int
    """How many share `cached` tokens and decode `decoded` each."""
    tail: int
    """What each of these has of its own."""
    prefills: tuple[int, ...]
    repeats: int
    bandwidth_bytes: int
    matmul_side: int

    @property
    def kv_tokens(self) -> int:
        """A pool that holds the largest of these, and what the one before it left."""
        batch = max(self.batches) * (self.prompt + self.decoded)
        shared = self.cached + self.requests * (self.tail + self.decoded)
        return 2 * max(batch, shared, *self.prefills) + 1024


FULL = Work(
    batches=(1, 8, 32),
    prompt=128,
    decoded=128,
    cached=2048,
    new=128,
    requests=32,
    tail=16,
    prefills=(2048, 8192),
    repeats=5,
    bandwidth_bytes=4 * 2**30,
    matmul_side=8192,
)
SMALL = Work(
    batches=(1, 2),
    prompt=32,
    decoded=8,
    cached=128,
    new=16,
    requests=4,
    tail=4,
    prefills=(64, 256),
    repeats=2,
    bandwidth_bytes=64 * 2**20,
    matmul_side=512,
)


@dataclass(frozen=True, slots=True)
class Times:
    """Moments of one answer, in seconds of one clock."""

    asked: float
    first: float
    last: float
    tokens: int
    reused: int


async def ask(engine: Engine, prompts: Sequence[Ids], max_tokens: int, *, salt: str) -> list[Times]:
    """Decode exactly `max_tokens` for each prompt, all at once."""
    async with asyncio.TaskGroup() as group:  # if one fails, the others do not go on
        tasks = [group.create_task(_one(engine, p, max_tokens, salt)) for p in prompts]
    return [task.result() for task in tasks]


async def warm_up(engine: Engine, work: Work, vocabulary: int) -> None:
    """Have an engine compile and lay out what its first requests need."""
    await ask(engine, prompts("warm-up", 2, work.prompt, vocabulary), 4, salt="warm-up")


async def _one(engine: Engine, prompt: Ids, max_tokens: int, salt: str) -> Times:
    request = GenerateRequest(prompt=prompt, max_tokens=max_tokens, ignore_end=True, tenant=salt)
    asked = perf_counter()
    first, last, tokens, reused = 0.0, 0.0, 0, 0
    async with aclosing(engine.generate(request)) as items:
        async for item in items:
            if isinstance(item, Finished):
                reused = item.usage.reused_tokens
            elif item.token_ids:
                last = perf_counter()
                first = first or last
                tokens += len(item.token_ids)
    return Times(asked, first, last, tokens, reused)


def prompts(seed: str, count: int, tokens: int, vocabulary: int) -> list[Ids]:
    """Return prompts that have nothing in common."""
    chosen = random.Random(seed)
    return [
        tuple(chosen.randrange(_FIRST_ID, vocabulary) for _ in range(tokens)) for _ in range(count)
    ]


def shared_prompts(seed: str, work: Work, vocabulary: int) -> list[Ids]:
    """Return `requests` prompts that share `cached` tokens and have a `tail` of their own."""
    (stem,) = prompts(seed, 1, work.cached, vocabulary)
    return [stem + tail for tail in prompts(f"{seed}-tails", work.requests, work.tail, vocabulary)]
