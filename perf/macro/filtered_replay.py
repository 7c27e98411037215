"""Recorded conversations held by the real engine, with filters and without.

Each hop is made twice, one after the other: on the context as it was said, and as filters deliver
it. Answers are the log's own, forced token by token, so that both go the same way. The time to the
first token includes the filters' own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from time import perf_counter

from agentbus_torch.engine import TorchEngine

from agentbus.config import FilterRule
from agentbus.context import LAYOUTS, Context, Layout, Ledger, Turn
from agentbus.engine import Finished, GenerateRequest, Usage
from agentbus.filters import Guard, Pipeline, open_lossy, plan_of, report_rows

from ..bootstrap import against
from ..peers import Peer
from ..report import Row, compare
from .recorded import found, say
from .tokenizer import Tokenizer
from .ways import CONVERSATIONS, TeamCall, read_conversations
from .with_model import open_engine, shortest_teams

__all__ = ["PLAIN", "Held", "Replay", "held_rows"]

PLAIN = Peer("plain")
"""The same conversations as they were said."""
HELD = 4
"""Conversations of each file that the engine holds."""
QUICK_FILES = ("tau_bench_airline.jsonl", "swe_agent.jsonl")
"""With --quick, one conversation of each."""
_FITTING = 40

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

    def figures(self) -> dict[str, float]:
        """Return the metrics of a row."""
        return {
            "prompt_tokens": float(self.prompt_tokens),
            "prefilled_tokens": float(self.prefilled_tokens),
            "ttft_p50_ms": 1e3 * median(self.ttft_s),
            "ttft_mean_ms": 1e3 * mean(self.ttft_s),
        }


class Replay:
    """Holds conversations in a layout."""

    def __init__(self, engine: TorchEngine, layout: Layout) -> None:
        self._engine = engine
        self._layout = layout
        self.plain = Held()
        self.filtered = Held()
        self.moved = 0
        """Filtered prompts that the next one of the same kind did not begin with."""
        self.guard = Guard()
        self.filter_s: list[float] = []
        """By hop, what filters took of the time to the first token."""
        self._calls = 0

    async def hold(self, calls: Sequence[TeamCall], name: str) -> None:
        """Let a team hold a conversation both ways."""
        pipeline = Pipeline(self._engine.count, Ledger(), open_lossy, self.guard)
        last: dict[str, tuple[Turn, ...]] = {}
        for call in calls:
            self._calls += 1
            both = [self._plainly(call, name), self._through(pipeline, call, name, last)]
            for hop in both if self._calls % 2 else reversed(both):
                await hop

    async def _plainly(self, call: TeamCall, name: str) -> None:
        self.plain.add(await self._generate(call, call.before, f"plain/{name}"))

    async def _through(
        self, pipeline: Pipeline, call: TeamCall, name: str, last: dict[str, tuple[Turn, ...]]
    ) -> None:
        plan = plan_of(_LOSSLESS, call.speaker)
        begun = perf_counter()
        given = pipeline.deliver(call.before, plan, call.speaker)
        taken = perf_counter() - begun
        self.filter_s.append(taken)
        self.filtered.add(await self._generate(call, given.context, f"filtered/{name}"), taken)
        pipeline.written_here(call.before, plan, call.speaker, call.after)
        turns = self._layout.render(given.context, call.speaker).turns
        kind = call.speaker if self._layout.per_reader else ""
        before = last.get(kind, ())
        self.moved += turns[: len(before)] != before
        last[kind] = turns

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


async def held_rows(data: Path, tokenizer: Tokenizer, *, quick: bool) -> AsyncIterator[list[Row]]:
    """Yield the rows of each file's conversations, a few of middling length that fit the window."""
    engine = await open_engine()
    try:
        for name, path in found(data / "conversations", QUICK_FILES if quick else CONVERSATIONS):
            teams = shortest_teams(
                read_conversations(path), tokenizer, engine.capabilities.window, _FITTING
            )
            if not teams:
                say(f"skipped {name}, held by the engine: no conversation fits the model's window")
                continue
            middle = len(teams) // 2
            replay = Replay(engine, LAYOUTS["roster_first"])
            for number, team in enumerate(teams[middle : middle + (1 if quick else HELD)]):
                await replay.hold(team, f"{name}/{number}")
            yield _rows(f"{name}, held by the engine", replay)
    finally:
        await engine.aclose()


def _rows(case: str, replay: Replay) -> list[Row]:
    on = [row for row in report_rows([replay.guard]) if not row.why_off]
    ours = {
        **replay.filtered.figures(),
        "filter_p50_ms": 1e3 * median(replay.filter_s),
        "moved_violations": float(replay.moved),
        "losing_edge_violations": float(sum(row.balance.net <= 0 for row in on)),
    }
    rows = compare("filters", case, ours, {PLAIN.name: replay.plain.figures()})
    both = ([1e3 * ttft_s for ttft_s in held.ttft_s] for held in (replay.filtered, replay.plain))
    return rows + against("filters", case, PLAIN.name, "ms", *both)
