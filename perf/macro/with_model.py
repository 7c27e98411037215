"""Logs and conversations that fit into the model's window, computed by the engine itself.

Answers are the log's own, forced token by token, so that the engine does what it did for the team
that wrote them. One engine serves all; what is computed for one session or conversation is no
other's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice

import anyio
from agentbus_torch.engine import TorchEngine, load_engine
from agentbus_torch.locate import SMALL_MODEL

from agentbus.config import EngineSettings
from agentbus.context import LAYOUTS, Layout
from agentbus.engine import Finished, GenerateRequest
from agentbus.kv import LRU

from .replay import LoggedCall, replay
from .tokenizer import Tokenizer
from .ways import TeamCall

__all__ = [
    "Computed",
    "compute_calls",
    "compute_teams",
    "index_prefills",
    "open_engine",
    "shortest_sessions",
    "shortest_teams",
]

TEAMS_AT_ONCE = 8
_WINDOW = 8192
KV_TOKENS = TEAMS_AT_ONCE * _WINDOW
"""All that teams at once may have read: what is evicted is not the question here."""


@dataclass(slots=True)
class Computed:
    """What the engine did."""

    prompt_tokens: int = 0
    prefilled_tokens: int = 0
    wall_s: float = 0.0


async def open_engine() -> TorchEngine:
    """Load the small model in bfloat16, for all of this machine's cores."""
    settings = EngineSettings(dtype="bfloat16", kv_tokens=KV_TOKENS)
    return await asyncio.to_thread(load_engine, SMALL_MODEL, settings)


def shortest_sessions(
    sessions: Iterable[Sequence[LoggedCall]], window: int, most: int
) -> list[Sequence[LoggedCall]]:
    """Return the shortest sessions of which each prompt fits, with a token to answer it."""
    found = [one for one in sessions if max(len(call.tokens) for call in one) < window]
    return sorted(found, key=lambda one: sum(len(call.tokens) for call in one))[:most]


def shortest_teams(
    teams: Iterable[Sequence[TeamCall]], tokenizer: Tokenizer, window: int, most: int
) -> list[Sequence[TeamCall]]:
    """Return the shortest conversations that fit."""
    said = [team for team in teams if team]
    said.sort(key=lambda team: sum(len(one.text) for one in team[-1].after.segments()))
    return list(islice((team for team in said if _fits(team, tokenizer, window)), most))


def index_prefills(session: Sequence[LoggedCall]) -> int:
    """Return what an index with room for everything leaves to be computed of a session."""
    tokens = sum(len(call.tokens) for call in session)
    return tokens - sum(replay(session, tokens, LRU()))


def _fits(team: Sequence[TeamCall], tokenizer: Tokenizer, window: int) -> bool:
    """Say whether the model can read a whole conversation, in each layout and by each speaker."""
    last = team[-1]
    room = window - max(len(tokenizer.plain(call.answer)) for call in team)
    readers = {call.speaker for call in team}
    prompts = (layout.render(last.before, who) for layout in LAYOUTS.values() for who in readers)
    return all(len(tokenizer.prompts.encode(prompt)) <= room for prompt in prompts)


async def compute_teams(
    engine: TorchEngine,
    teams: Iterable[Sequence[TeamCall]],
    layout: Layout,
    tokenizer: Tokenizer,
    *,
    reuse: bool,
) -> Computed:
    """Let teams hold their conversations, several at once; without `reuse` each hop reads all."""
    total, limit, begun = Computed(), anyio.CapacityLimiter(TEAMS_AT_ONCE), time.perf_counter()

    async def hold(team: Sequence[TeamCall]) -> None:
        tenant = f"{layout.name}/{team[-1].after.root.hex()}"  # it shares KV with no other
        async with limit:
            for call in team:
                request = GenerateRequest(
                    prompt=layout.render(call.before, call.speaker),
                    max_tokens=0,
                    forced=tuple(tokenizer.plain(call.answer)),
                    tenant=tenant,
                    owner=call.speaker,
                    reuse=reuse,
                )
                await _add(engine, request, total)

    async with anyio.create_task_group() as group:
        for team in teams:
            group.start_soon(hold, team)
    total.wall_s = time.perf_counter() - begun
    return total


async def compute_calls(
    engine: TorchEngine, calls: Iterable[LoggedCall], *, reuse: bool
) -> Computed:
    """Make logged calls one after the other, for a token each."""
    total, begun = Computed(), time.perf_counter()
    for call in calls:
        request = GenerateRequest(
            prompt=tuple(call.tokens),
            max_tokens=1,
            ignore_end=True,
            tenant=call.session,
            owner=call.owner,
            reuse=reuse,
        )
        await _add(engine, request, total)
    total.wall_s = time.perf_counter() - begun
    return total


async def _add(engine: TorchEngine, request: GenerateRequest, total: Computed) -> None:
    async with aclosing(engine.generate(request)) as items:
        async for item in items:
            if isinstance(item, Finished):
                total.prompt_tokens += item.usage.prompt_tokens
                total.prefilled_tokens += item.usage.prefilled_tokens
