"""The suite `masking`: conversations as calls, what they cost, and that hindsight is never worse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perf.macro import masking
from perf.macro.masking import SUITE
from perf.report import Row


def said(results: int, size: int) -> list[dict[str, Any]]:
    messages = [{"from": "user", "kind": "message", "content": "go"}]
    for number in range(results):
        text = f"{number} ".ljust(size, "x")
        messages.append({"from": "agent", "kind": "message", "content": "thinking"})
        messages.append({"from": "agent", "kind": "tool_call", "content": "look"})
        messages.append({"from": "tools", "kind": "tool_result", "content": text})
    return messages


async def measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *talks: list[dict[str, Any]]
) -> dict[tuple[str, str, str | None], Row]:
    class Tokenizer:
        @staticmethod
        def plain(text: str) -> list[int]:
            return [0] * len(text)

    monkeypatch.setattr(masking, "load_tokenizer", Tokenizer)
    (folder / "conversations").mkdir()
    lines = "".join(json.dumps({"messages": talk}) + "\n" for talk in talks)
    (folder / "conversations" / "swe_agent.jsonl").write_text(lines)
    assert SUITE.on_data is not None
    peers = [peer.name for peer in SUITE.peers]
    rows = await SUITE.on_data(folder)(peers, quick=False, progress=lambda _: None)
    return {(row.case, row.metric, row.peer): row for row in rows}


@pytest.mark.anyio
async def test_few_results_leave_all_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = await measured(tmp_path, monkeypatch, said(11, 200))
    for (_, metric, _), row in rows.items():
        if metric == "cost_points":
            assert row.value == row.peer_value == pytest.approx(100)
    # Ten calls read a result each, and the markup of what was said before it and is in the cache.
    new = len("go") + 4 + 10 * (200 + 4 + 2 * 4)
    assert rows["swe_agent_cpu_warm", "prefilled_tokens", "hindsight"].value == new


@pytest.mark.anyio
async def test_what_epochs_save_lies_between_each_call_and_hindsight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = await measured(tmp_path, monkeypatch, said(40, 300), said(25, 900))
    for engine in masking.ENGINES:
        for cache in masking.COLD_EVERY:
            name = f"swe_agent_{engine}_{cache}"
            best = rows[name, "cost_points", "hindsight"]
            each = rows[name, "cost_points", "each_call"]
            assert best.peer_value is not None and each.peer_value is not None
            assert best.peer_value <= best.value + 1e-9
            assert best.value <= each.peer_value + 1e-9
            assert best.peer_value <= 100 + 1e-9
    assert rows["swe_agent_cpu_cold", "cost_points", "hindsight"].value < 90
    assert rows["swe_agent_cpu_rate_warm", "cost_points", "hindsight"].value == pytest.approx(100)
    fitting = rows["swe_agent_fitting", "fitting_percent", "never"]
    assert fitting.peer_value is not None
    assert fitting.value > fitting.peer_value > 0
