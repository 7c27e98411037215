"""One model folder through all patterns and batches, in float32 and bfloat16."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from agentbus.config import EngineSettings
from agentbus.engine import open_engine

from .check import Drift, Reference, Verdict, drift, exact_verdict, near_verdict, total
from .patterns import AT_ONCE, PATTERNS, Asker, Exchange, Ids, Size, Source

__all__ = ["BATCHES", "QUICK", "WHOLE", "Found", "compare_folder", "windows_of"]

WHOLE = Size(families=4, rows=5, prompt_tokens=64, decoded=64)
QUICK = Size(families=2, rows=3, prompt_tokens=48, decoded=6)
BATCHES = (1, AT_ONCE)


@dataclass(frozen=True, slots=True)
class Found:
    """What one engine in one batch size said, against the reference."""

    dtype: str
    batch: int
    verdicts: Mapping[str, Verdict]
    """By pattern."""
    problems: Sequence[str]
    """Where a pattern did not reuse what it is made to reuse."""
    drift: Drift | None
    """For bfloat16, what it does to the reference itself."""

    @property
    def verdict(self) -> Verdict:
        """All patterns together."""
        return total([*self.verdicts.values()])


def windows_of(ids: Ids) -> Source:
    """Return a source of windows into a text's ids, from places that the seed chooses."""

    def source(seed: str, tokens: int) -> Ids:
        start = random.Random(seed).randrange(len(ids))
        repeats = -(-(start + tokens) // len(ids))
        return (ids * repeats)[start : start + tokens]

    return source


async def compare_folder(
    folder: Path,
    *,
    dtype: str,
    batches: Sequence[int],
    size: Size,
    source: Source,
    never: Collection[int],
    threads: int,
    progress: Callable[[str], None],
    device: str = "cpu",
) -> list[Found]:
    """Ask the torch engine on a model folder, in each batch size by an engine of its own.

    Args:
        source: of prompts.
        never: tokens that end answers, which neither side may choose.
        device: the engine's; the reference computes on a CPU.

    Raises:
        EngineError: the model cannot be had, or a call failed.
    """
    settings = EngineSettings(
        dtype=dtype, device=device, threads=threads, kv_tokens=size.pool_tokens
    )
    asked = []
    for batch in batches:
        progress(f"{dtype}, batches of {batch}")
        asked.append(await _ask(folder, settings, batch, size, source))
    progress(f"{dtype}: the reference")
    return await asyncio.to_thread(_judge, folder, dtype, asked, never)


async def _ask(
    folder: Path, settings: EngineSettings, batch: int, size: Size, source: Source
) -> tuple[int, Asker]:
    engine = await open_engine(str(folder), settings)
    try:
        asker = Asker(engine, batch=batch, size=size, source=source)
        await asker.run(PATTERNS)
    finally:
        await engine.aclose()
    return batch, asker


def _judge(
    folder: Path, dtype: str, asked: Sequence[tuple[int, Asker]], never: Collection[int]
) -> list[Found]:
    exact = Reference(folder, dtype=torch.float32, never=never)
    if dtype == "float32":
        return [_found(dtype, batch, asker, exact, None) for batch, asker in asked]
    rounded = Reference(folder, dtype=torch.bfloat16, never=never)
    return [
        _found(dtype, batch, asker, exact, _drift(exact, rounded, asker.exchanges))
        for batch, asker in asked
    ]


def _found(dtype: str, batch: int, asker: Asker, exact: Reference, moved: Drift | None) -> Found:
    def judge(exchange: Exchange) -> Verdict:
        scores = exact.scores(exchange)
        if moved is None:
            return exact_verdict(exchange, scores)
        return near_verdict(exchange, scores, 2 * moved.largest)

    verdicts = {
        name: total([judge(one) for one in asker.exchanges if one.pattern == name])
        for name in PATTERNS
    }
    return Found(dtype, batch, verdicts, asker.problems, moved)


def _drift(exact: Reference, rounded: Reference, exchanges: Sequence[Exchange]) -> Drift:
    return drift((exact.scores(one), rounded.scores(one)) for one in exchanges)
