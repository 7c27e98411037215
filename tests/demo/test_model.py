"""The demo's texts and its comparison on the real small model."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import anyio
import pytest

from agentbus.config import EngineSettings
from agentbus.context.layout import Prompt, Turn
from agentbus.demo.account import find_turn_start, split_turns
from agentbus.demo.compare import compare
from agentbus.demo.events import Event, HopEnded
from agentbus.demo.roles import ROLES, Role, load_default_document, steps
from agentbus.demo.table import to_json
from agentbus.engine.base import Engine
from agentbus.engine.registry import open_engine

from .local_way import LocalWay, held

pytestmark = [pytest.mark.anyio, pytest.mark.model]

MODEL = "smollm2"
SETTINGS = EngineSettings(dtype="float32", kv_tokens=8192)
FEW_ROLES = (
    Role("alpha", "Alpha counts the boats in the harbour and says the number."),
    Role("beta", "Beta names the boats in the harbour, one after the other."),
)
ASKS = ["How many boats?", "Which boats?", "Count again.", "Name them again."]


@asynccontextmanager
async def opened(settings: EngineSettings) -> AsyncGenerator[Engine, None]:
    engine = await open_engine(MODEL, settings)
    try:
        yield engine
    finally:
        await engine.aclose()


async def test_roles_and_document_have_their_sizes() -> None:
    texts = [*(role.text for role in ROLES), load_default_document()]
    texts += [step.ask for step in steps()]
    turns = (Turn("system", "-"), *(Turn("user", text) for text in texts))
    async with opened(SETTINGS) as engine:
        chat = engine.tokenize(Prompt(turns, Turn("assistant", "")))
    start = find_turn_start(chat, len(turns) + 1)
    markup = 5
    sizes = [len(turn) - markup for turn in split_turns(chat, start)[1:-1]]
    roles, document, asks = sizes[: len(ROLES)], sizes[len(ROLES)], sizes[len(ROLES) + 1 :]
    assert min(roles) >= 100
    assert 700 <= document <= 900
    assert max(asks) <= 30


async def test_the_comparison_of_a_small_conversation(tmp_path: Path) -> None:
    log = tmp_path / "tokens.jsonl"
    ended: list[Event] = []
    async with opened(dataclasses.replace(SETTINGS, token_log=str(log))) as engine:
        document = "Gull, Tern and Skua lie in the harbour. The quay is 40 metres long."
        record = await held(engine, FEW_ROLES, ASKS, document=document, max_tokens=8)
        with anyio.fail_after(120):
            found = await compare(
                record,
                LocalWay(engine, record, log),
                model_spec=MODEL,
                settings=SETTINGS,
                progress=lambda event: ended.append(event),
            )
    assert found.equal.hops == 4
    assert found.equal.decoded_per_hop == (8, 8, 8, 8)
    ways = [event.way for event in ended if isinstance(event, HopEnded)]
    names = ["plain", "engine_cache", "engine_cache_same_layout", "agentbus"]
    assert ways[:8] == [*names, *names[1:], names[0]]
    plain, cache, same, ours = (found.way(name) for name in names)
    assert plain.account.reused == 0
    assert plain.account.prefilled > cache.account.prefilled > ours.account.prefilled
    assert ours.account.ratio <= 1.1
    assert [hop.prompt for hop in same.account.hops] == [hop.prompt for hop in ours.account.hops]
    assert [leg.link for leg in plain.results[0].legs] == [
        "orchestrator to agent",
        "agent to engine",
    ]
    said = to_json(found)
    assert set(said) == {"model", "at", "machine", "engine", "ways", "equal_work"}
    cores = os.cpu_count() or 1
    assert str(said["engine"]).startswith(f"dtype float32, {cores} thread")
    assert f"{cores} cores" in str(said["machine"])
    assert datetime.fromisoformat(str(said["at"])).tzinfo is not None
