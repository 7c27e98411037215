"""Recorded conversations held by the real engine, with filters and without.

Each hop is made twice, one after the other: on the context as it was said, and as filters deliver
it. Answers are the log's own, forced token by token, so that both go the same way. The time to the
first token includes the filters' own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter

from agentbus_torch.engine import TorchEngine

from agentbus.config import FilterRule
from agentbus.context import Context, Layout, Turn
from agentbus.engine import Finished, GenerateRequest, Usage
from agentbus.filters import Ledger, Pipeline, open_lossy, plan_of

from .ways import TeamCall

__all__ = ["Held", "Replay"]

_LOSSLESS = (FilterRule(use=("lossless",)),)


@dataclass(slots=True)
class Held:
    """What conversations cost in one way."""

    prompt_tokens: int = 0
    prefilled_tokens: int = 0
    ttft_s: list[float] = field(default_factory=list)

    def add(self, usage: Usage, filter_s: float = 0.0) -> None:
        """Add a hop."""
        self.prompt_tokens += usage.prompt_tokens
        self.prefilled_tokens += usage.prefilled_tokens
        self.ttft_s.append(usage.ttft_s + filter_s)

    @property
    def ttft_p50_ms(self) -> float:
        """Of all hops."""
        return 1e3 * median(self.ttft_s)


class Replay:
    """Holds conversations in a layout."""

    def __init__(self, engine: TorchEngine, layout: Layout) -> None:
        self._engine = engine
        self._layout = layout
        self.plain = Held()
        self.filtered = Held()
        self.moved = 0
        """Filtered prompts that the next one of the same kind did not begin with."""
        self.edges: Counter[str] = Counter()
        """Tokens saved of what each sender said, counted when they were first delivered."""
        self._calls = 0

    async def hold(self, calls: Sequence[TeamCall], number: int) -> None:
        """Let a team hold a conversation both ways."""
        pipeline = Pipeline(self._engine.count, Ledger(), open_lossy)
        last: dict[str, tuple[Turn, ...]] = {}
        for call in calls:
            self._calls += 1
            both = [self._plainly(call, number), self._through(pipeline, call, number, last)]
            for hop in both if self._calls % 2 else reversed(both):
                await hop

    async def _plainly(self, call: TeamCall, number: int) -> None:
        self.plain.add(await self._generate(call, call.before, f"plain/{number}"))

    async def _through(
        self, pipeline: Pipeline, call: TeamCall, number: int, last: dict[str, tuple[Turn, ...]]
    ) -> None:
        plan = plan_of(_LOSSLESS, call.speaker)
        begun = perf_counter()
        given = pipeline.deliver(call.before, plan, call.speaker)
        taken = perf_counter() - begun
        self.filtered.add(await self._generate(call, given.context, f"filtered/{number}"), taken)
        pipeline.written_here(call.before, call.after, plan, call.speaker)
        turns = self._layout.render(given.context, call.speaker).turns
        kind = call.speaker if self._layout.per_reader else ""
        before = last.get(kind, ())
        self.moved += turns[: len(before)] != before
        last[kind] = turns
        for receipt in given.receipts():
            self.edges[receipt.sender] += receipt.saved_tokens

    async def _generate(self, call: TeamCall, context: Context, tenant: str) -> Usage:
        request = GenerateRequest(
            prompt=self._layout.render(context, call.speaker),
            max_tokens=1,
            ignore_end=True,
            tenant=tenant,
            owner=call.speaker,
        )
        async with aclosing(self._engine.generate(request)) as items:
            async for item in items:
                if isinstance(item, Finished):
                    return item.usage
        raise RuntimeError("the engine's answer has no end")
