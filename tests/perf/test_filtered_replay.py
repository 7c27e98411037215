"""Conversations held both ways: what is counted, and that a moved prompt is seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentbus.context import LAYOUTS, Context, TenantKey
from perf.macro import filtered_replay
from perf.macro.filtered_replay import PLAIN, Replay
from perf.macro.ways import TeamCall
from tests.torch.tiny import TinyModel

pytestmark = pytest.mark.anyio

ROWS = json.dumps([{"id": n, "city": "Rome", "free": n % 5} for n in range(12)], indent=2)


def calls() -> list[TeamCall]:
    before: Context = TenantKey().empty().role("a", "You search.").role("b", "You check.")
    made = []
    for number in range(4):
        before = before.document(ROWS, name="db")
        speaker = "ab"[number % 2]
        after = before.message(speaker, f" Number {number}.")
        made.append(TeamCall(before, speaker, f" Number {number}.", after))
        before = after
    return made


async def test_filtered_hops_prefill_less_and_prompts_only_grow(tmp_path: Path) -> None:
    from agentbus_torch.engine import load_engine

    from agentbus.config import EngineSettings

    folder = TinyModel(window=4096).write(tmp_path / "tiny")
    engine = load_engine(str(folder), EngineSettings(dtype="float32"))
    replay = Replay(engine, LAYOUTS["roster_first"])
    try:
        await replay.hold(calls(), "one")
    finally:
        await engine.aclose()
    assert replay.moved == 0
    assert len(replay.plain.ttft_s) == len(replay.filtered.ttft_s) == 4
    assert 0 < replay.filtered.prefilled_tokens < replay.plain.prefilled_tokens
    rows = {row.metric: row for row in filtered_replay._rows("case", replay)}
    assert rows["prefilled_tokens"].peer == PLAIN.name
    assert rows["losing_edge_violations"].value == 0
    both = rows["ttft_mean_ms"]
    assert both.peer_value is not None
    assert rows["against_plain_ms"].value == pytest.approx(both.value - both.peer_value)
    assert rows["against_plain_low_ms"].value <= rows["against_plain_ms"].value
    assert 0 < rows["filter_p50_ms"].value < both.value
    replay.moved = 1
    assert {row.metric: row.value for row in filtered_replay._rows("case", replay)}[
        "moved_violations"
    ] == 1
