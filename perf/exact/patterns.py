"""Five ways in which prompts reuse one another's KV, asked of an engine by its contract alone.

`cold` prompts share nothing. `repeat` asks again what was asked. `extended` goes on behind an
earlier prompt and its answer. `fork` leaves an earlier prompt in the middle of a block. `siblings`
of several families come interleaved, lose what they share to a prompt that needs the whole pool,
and share it again.

Prompts that only prepare are not recorded. Calls of one batch run at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from agentbus.engine import Engine, Finished, GenerateRequest

__all__ = ["AT_ONCE", "PATTERNS", "Asker", "Exchange", "Ids", "Size", "Source"]

Ids = tuple[int, ...]

Source = Callable[[str, int], Ids]
"""Gives as many token ids as are asked for: the same for the same seed, others for another."""

AT_ONCE = 8
"""Most calls that run at once."""
_SPARE_TOKENS = 64
"""What the prompt that needs the whole pool leaves of it to others."""
_BY_CHANCE = 8
"""Tokens that prompts which were made to share nothing may have in common all the same."""
_MIDDLE = 8
"""How far into a block a fork goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is asked in each pattern: `families` times `rows` prompts."""

    families: int
    rows: int
    """At least 3, so that `siblings` can lose their prefix and share it again."""
    prompt_tokens: int
    decoded: int

    @property
    def prompts(self) -> int:
        """Recorded prompts of one pattern."""
        return self.families * self.rows

    @property
    def pool_tokens(self) -> int:
        """The pool that the engine should have: twice what calls at once need, and no more, so
        that `siblings` see evictions."""
        return 2 * min(AT_ONCE, self.prompts) * 2 * (self.prompt_tokens + self.decoded)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A prompt and what the engine chose, greedily, ends left out."""

    pattern: str
    prompt: Ids
    answer: Ids
    reused: int


class Asker:
    """Asks an engine in batches and keeps what it answered."""

    def __init__(self, engine: Engine, *, batch: int, size: Size, source: Source) -> None:
        self._engine = engine
        self._batch = batch
        self._source = source
        self._pattern = ""
        self.size = size
        self.exchanges: list[Exchange] = []
        self.problems: list[str] = []
        """In plain words, where KV was not reused as the pattern is made for, or was where it
        must not be."""

    async def run(self, patterns: Mapping[str, Pattern]) -> None:
        """Ask all of these patterns."""
        for name, pattern in patterns.items():
            self._pattern = name
            await pattern(self)

    def text(self, seed: str, tokens: int) -> Ids:
        """Return ids that no other pattern asks of the engine."""
        return self._source(f"{self._pattern}-{seed}", tokens)

    async def prepare(self, prompts: Sequence[Ids]) -> list[Ids]:
        """Ask without recording."""
        return [one.answer for one in await self._ask(prompts)]

    async def check(self, prompts: Sequence[Ids]) -> list[Exchange]:
        """Ask and record."""
        found = await self._ask(prompts)
        self.exchanges += found
        return found

    def expect(self, holds: bool, what: str) -> None:
        """Note a problem if something does not hold."""
        if not holds:
            self.problems.append(f"{self._pattern}: {what}")

    async def _ask(self, prompts: Sequence[Ids]) -> list[Exchange]:
        found: list[Exchange] = []
        for batch in _batches(prompts, self._batch):
            found += await asyncio.gather(*(self._one(prompt) for prompt in batch))
        return found

    async def _one(self, prompt: Ids) -> Exchange:
        request = GenerateRequest(
            prompt=prompt, max_tokens=self.size.decoded, ignore_end=True, tenant=self._pattern
        )
        ids, reused = list[int](), 0
        async with aclosing(self._engine.generate(request)) as items:
            async for item in items:
                if isinstance(item, Finished):
                    reused = item.usage.reused_tokens
                else:
                    ids += item.token_ids
        return Exchange(self._pattern, prompt, tuple(ids), reused)


Pattern = Callable[[Asker], Awaitable[None]]


def _batches(prompts: Sequence[Ids], size: int) -> Iterator[Sequence[Ids]]:
    for start in range(0, len(prompts), size):
        yield prompts[start : start + size]


async def _cold(asker: Asker) -> None:
    size = asker.size
    prompts = [asker.text(str(n), size.prompt_tokens) for n in range(size.prompts)]
    for one in await asker.check(prompts):
        asker.expect(one.reused <= _BY_CHANCE, f"{one.reused} tokens of a new prompt were reused")


async def _repeat(asker: Asker) -> None:
    size = asker.size
    prompts = [asker.text(str(n), size.prompt_tokens) for n in range(size.prompts)]
    for some in _batches(prompts, AT_ONCE):
        await asker.prepare(some)
        for one in await asker.check(some):
            asker.expect(one.reused == len(one.prompt) - 1, f"a repeat reused {one.reused}")


async def _extended(asker: Asker) -> None:
    size = asker.size
    known = size.prompt_tokens + size.decoded - 1  # the last token's KV was never needed
    prompts = [asker.text(str(n), size.prompt_tokens) for n in range(size.prompts)]
    for number, some in enumerate(_batches(prompts, AT_ONCE)):
        answers = await asker.prepare(some)
        longer = [
            prompt + answer + asker.text(f"{number}-{n}-more", size.prompt_tokens)
            for n, (prompt, answer) in enumerate(zip(some, answers, strict=True))
        ]
        for one in await asker.check(longer):
            asker.expect(one.reused >= known, f"{one.reused} of {known} tokens were reused")


async def _fork(asker: Asker) -> None:
    size = asker.size
    stem_tokens = size.prompt_tokens // 2 + _MIDDLE
    rest = size.prompt_tokens - stem_tokens
    stems = [asker.text(f"stem-{row}", stem_tokens) for row in range(size.rows)]
    await asker.prepare([stem + asker.text(f"{n}-first", rest) for n, stem in enumerate(stems)])
    forks = [
        stem + asker.text(f"{row}-{n}", rest)
        for row, stem in enumerate(stems)
        for n in range(size.families)
    ]
    for one in await asker.check(forks):
        asker.expect(one.reused >= stem_tokens, f"a fork reused {one.reused}")


async def _siblings(asker: Asker) -> None:
    size = asker.size
    stems = [asker.text(f"family-{n}", size.prompt_tokens) for n in range(size.families)]
    rows = [
        [stem + asker.text(f"{row}-{n}", size.prompt_tokens) for n, stem in enumerate(stems)]
        for row in range(size.rows)
    ]
    half = size.rows // 2
    await asker.check([prompt for row in rows[:half] for prompt in row])
    await asker.prepare([asker.text("pressure", size.pool_tokens - size.decoded - _SPARE_TOKENS)])
    lost = await asker.check([prompt for row in rows[half : 2 * half] for prompt in row])
    again = await asker.check([prompt for row in rows[2 * half :] for prompt in row])
    asker.expect(any(one.reused < size.prompt_tokens for one in lost), "nothing was evicted")
    for one in again:
        asker.expect(one.reused >= size.prompt_tokens, f"a sibling reused {one.reused}")


PATTERNS: Mapping[str, Pattern] = {
    "cold": _cold,
    "repeat": _repeat,
    "extended": _extended,
    "fork": _fork,
    "siblings": _siblings,
}
