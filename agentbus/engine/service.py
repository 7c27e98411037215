"""An engine as many agents share it: single flight, and prefill ahead of need.

It wraps any engine and is one. Calls that need the same new prefix have it computed once; what is
prefetched comes last, and gives way to a call within one step of the engine.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from time import perf_counter

import anyio

from ..context import LastPrompts
from ..context.layout import Prompt
from ..telemetry import Budget
from . import scoring
from .base import Capabilities, Engine, EngineStats, Finished, GenerateRequest, Piece, Usage
from .flights import Chain, Flight, SingleFlight, chain_of
from .scoring import Scores, Vectors

__all__ = ["EngineService"]

LONGEST_WAIT_S = 60.0
"""How long a call waits for prefixes that others compute, before it computes all by itself."""
MOST_PREFETCHES = 16
"""Prefetches that wait or run; more are not begun."""
OWNERS = 4096
"""Owners whose last prompt is remembered, by a hash for each turn."""
_AHEAD = 1024
"""Prefetched prompts that are remembered until somebody uses them."""


class EngineService:
    """Serves one engine to many. Not thread-safe: for the tasks of one event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._flights = SingleFlight()
        self._landed: dict[Flight, anyio.Event] = {}
        self._prefilling = 0
        """Calls in the engine that have had nothing from it yet."""
        self._quiet = anyio.Event()
        self._quiet.set()
        self._prefetches = 0
        self._one_prefetch = anyio.Lock()
        self._yielding: tuple[Flight, anyio.CancelScope] | None = None
        """The prefetch that is being computed, as long as nobody waits for it."""
        self._ahead: OrderedDict[bytes, int] = OrderedDict()
        """Tokens that were prefetched and not used yet, by the last link of their prompt."""
        self._prefetched = 0
        self._prefetch_used = 0
        self._last_prompts = LastPrompts(OWNERS)

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return self._engine.capabilities

    def tokenize(self, prompt: Prompt) -> tuple[int, ...]:
        """As the engine's."""
        return self._engine.tokenize(prompt)

    def count(self, text: str) -> int:
        """As the engine's."""
        return self._engine.count(text)

    def stats(self) -> EngineStats:
        """Return the state of the engine, and what was prefetched."""
        return replace(
            self._engine.stats(),
            prefetched_tokens=self._prefetched,
            prefetch_used_tokens=self._prefetch_used,
        )

    async def aclose(self) -> None:
        """Close the engine."""
        await self._engine.aclose()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece | Finished, None]:
        """As the engine's; first wait for those who compute a prefix that the prompt needs.

        If they fail or are cancelled, the first that waited takes over. `ttft_s` and `queue_s`
        include the wait. The usage has `lost_tokens`, reckoned from characters.
        """
        chain = self._chain(request.prompt, request.tenant) if request.reuse else ()
        begun = perf_counter()
        await self._wait_for_others(chain)
        waited = perf_counter() - begun
        flight = self._enter(chain)
        entered = True
        try:
            async with aclosing(self._engine.generate(request)) as items:
                async for item in items:
                    if entered:
                        entered = False
                        self._leave(flight, computed=True)
                    if isinstance(item, Finished):
                        self._count_used(chain, item.usage.reused_tokens)
                        lost = self._count_lost(request, item.usage)
                        item = replace(item, usage=_told(item.usage, waited, lost))
                    yield item
        finally:
            if entered:
                self._leave(flight, computed=False)

    async def prefill(self, prompt: Prompt, *, tenant: str = "", owner: str = "") -> Usage:
        """As the engine's, in single flight with the other calls."""
        chain = self._chain(prompt, tenant)
        await self._wait_for_others(chain)
        flight, computed = self._enter(chain), False
        try:
            usage = await self._engine.prefill(prompt, tenant=tenant, owner=owner)
            computed = True
        finally:
            self._leave(flight, computed=computed)
        return usage

    async def score(
        self,
        prompt: Prompt | tuple[int, ...],
        continuations: Sequence[str | tuple[int, ...]],
        *,
        tenant: str = "",
        budget: Budget | None = None,
    ) -> Scores:
        """As the engine's, behind those who compute a prefix of the prompt.

        Nobody waits for it in turn: it may have many continuations to read. Raises `Unsupported`
        where the engine cannot.
        """
        chain = self._chain(prompt, tenant)
        await self._wait_for_others(chain)
        flight = self._enter(())
        try:
            found = await scoring.score(
                self._engine, prompt, continuations, tenant=tenant, budget=budget
            )
        finally:
            self._leave(flight, computed=False)
        self._count_used(chain, found.usage.reused_tokens)
        return found

    async def embed(self, texts: Sequence[str], *, budget: Budget | None = None) -> Vectors:
        """As the engine's. Raises `Unsupported` where it cannot."""
        flight = self._enter(())
        try:
            return await scoring.embed(self._engine, texts, budget=budget)
        finally:
            self._leave(flight, computed=False)

    async def prefetch(self, prompt: Prompt, *, tenant: str = "", owner: str = "") -> Usage:
        """Compute a prompt's KV while the engine has no other prompt to read, for `owner`'s call.

        Once another comes, this stops within one step of the engine and goes on afterwards from
        where it was, unless that other needs this one. Returns what was computed; nothing of what
        is known already, if the engine reuses nothing, or if too many prefetches wait. Raises as
        `prefill` does.
        """
        if self._prefetches >= MOST_PREFETCHES:
            return Usage()
        chain = self._chain(prompt, tenant)
        self._prefetches += 1
        try:
            async with self._one_prefetch:
                while not self._flights.knows(chain):
                    await self._quiet.wait()
                    await self._wait_for_others(chain)
                    if self._prefilling or self._flights.knows(chain):
                        continue
                    usage = await self._prefill_yielding(chain, prompt, tenant, owner)
                    if usage is not None:
                        return usage
        finally:
            self._prefetches -= 1
        return Usage()

    async def _prefill_yielding(
        self, chain: Chain, prompt: Prompt, tenant: str, owner: str
    ) -> Usage | None:
        """Compute a prompt until a call comes in between; None if one did."""
        flight = self._begin(chain)
        usage = None
        try:
            with anyio.CancelScope() as scope:
                self._yielding = flight, scope
                usage = await self._engine.prefill(prompt, tenant=tenant, owner=owner)
        finally:
            self._yielding = None
            self._end(flight, computed=usage is not None)
        if usage is not None and usage.prefilled_tokens:
            self._note_ahead(prompt, tenant, usage.prefilled_tokens)
        return usage

    def _chain(self, prompt: Prompt | tuple[int, ...], tenant: str) -> Chain:
        """Return a prompt's chain; none where an engine reuses nothing, so that nobody waits."""
        return chain_of(prompt, tenant) if self.capabilities.prefix_reuse else ()

    async def _wait_for_others(self, chain: Chain) -> None:
        with anyio.move_on_after(LONGEST_WAIT_S):
            while (flight := self._flights.awaited(chain)) is not None:
                if self._yielding is not None and self._yielding[0] is flight:
                    self._yielding = None  # it is somebody's own now
                await self._landed[flight].wait()

    def _begin(self, chain: Chain) -> Flight:
        flight = self._flights.begin(chain)
        self._landed[flight] = anyio.Event()
        return flight

    def _end(self, flight: Flight, *, computed: bool) -> None:
        if computed:
            self._flights.land(flight)
        else:
            self._flights.fail(flight)
        self._landed.pop(flight).set()

    def _enter(self, chain: Chain) -> Flight:
        """Begin with a call's prompt; a prefetch gives way."""
        if self._yielding is not None:
            self._yielding[1].cancel()
        if not self._prefilling:
            self._quiet = anyio.Event()
        self._prefilling += 1
        return self._begin(chain)

    def _leave(self, flight: Flight, *, computed: bool) -> None:
        self._prefilling -= 1
        if not self._prefilling:
            self._quiet.set()
        self._end(flight, computed=computed)

    def _note_ahead(self, prompt: Prompt, tenant: str, tokens: int) -> None:
        """Remember what was prefetched, by the last turn of it that is whole."""
        self._prefetched += tokens
        whole = chain_of(replace(prompt, cue=replace(prompt.cue, text="")), tenant)
        if whole:
            self._ahead[whole[-1].key] = self._ahead.get(whole[-1].key, 0) + tokens
        while len(self._ahead) > _AHEAD:
            self._ahead.popitem(last=False)

    def _count_used(self, chain: Chain, reused: int) -> None:
        if self._ahead:
            ahead = sum(self._ahead.pop(link.key, 0) for link in chain)
            self._prefetch_used += min(ahead, reused)

    def _count_lost(self, request: GenerateRequest, usage: Usage) -> int:
        """Return how many tokens were computed again, since they stand where no cache finds them."""
        prompt = request.prompt
        if not (isinstance(prompt, Prompt) and request.owner and request.reuse):
            return 0
        share = self._last_prompts.repeated((request.tenant, request.owner), prompt.turns)
        return min(round(share * usage.prompt_tokens), usage.prefilled_tokens)


def _told(usage: Usage, waited: float, lost: int) -> Usage:
    """Return a call's usage as its caller sees it."""
    queue_s, ttft_s = usage.queue_s + waited, usage.ttft_s + waited
    return replace(usage, queue_s=queue_s, ttft_s=ttft_s, lost_tokens=lost)
