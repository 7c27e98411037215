"""The suite `filters`: what it counts, and that it would see a loss."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentbus.filters import Delivered, PlainJSON
from perf.macro import filters
from perf.macro.deliveries import by_receiver, seen_by_one, to_receiver
from perf.macro.filters import SUITE, Readers
from perf.report import VIOLATIONS, Row

ROWS = [{"id": n, "name": f"number {n}"} for n in range(30)]


async def no_engine(data: Path, tokenizer: object, *, quick: bool) -> AsyncIterator[list[Row]]:
    empty: tuple[list[Row], ...] = ()
    for rows in empty:
        yield rows


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    class Tokenizer:
        @staticmethod
        def count(text: str) -> int:
            return len(text)

    monkeypatch.setattr(filters, "load_tokenizer", Tokenizer)
    monkeypatch.setattr(filters, "held_rows", no_engine)
    folder = tmp_path / "tool_outputs" / "json_array"
    folder.mkdir(parents=True)
    (folder / "rows.json").write_text(json.dumps(ROWS, indent=1))
    talks = tmp_path / "conversations"
    talks.mkdir()
    said = [
        ("tool_result", json.dumps(ROWS)),
        ("message", "[1]"),
        ("tool_result", "done"),
        ("tool_result", json.dumps(ROWS)),
    ]
    messages = [
        {"kind": kind, "content": content, "from": "tools", "to": "agent"} for kind, content in said
    ]
    (talks / "tau_bench_airline.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    return tmp_path


@pytest.mark.anyio
async def test_cases_and_sums(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert SUITE.on_data is not None
    rows = await SUITE.on_data(data)(["compact"], quick=False, progress=lambda _: None)
    found = {(row.case, row.metric): row for row in rows}
    plain = PlainJSON().write(json.dumps(ROWS))
    assert plain is not None
    one = found["json_array", "tokens"]
    assert (one.value, one.peer_value) == (len(plain), len(json.dumps(ROWS, separators=(",", ":"))))
    assert found["tau_bench_airline", "tokens"].value == 2 * len(plain) + len("[1]done")
    assert found["tau_bench_airline_json_results", "tokens"].value == 2 * len(plain)
    delivered = found["tau_bench_airline_json_results, delivered to one", "tokens"]
    assert len(plain) < delivered.value < len(plain) + 100, "the second refers to the first"
    assert all(row.value == 0 for row in rows if row.unit == VIOLATIONS)
    assert "skipped log" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sent", "delivered", "kept"),
    [
        ('{"a": 1.0}', "{a:1.0}", True),
        ('{"a": 1.0}', "{a:1}", False),
        ('{"a": 1, "a": 2}', "{a:2}", False),
        ('{"a": 1, "b": 2}', "{b:2,a:1}", False),
        ('{"a": "1"}', "{a:1}", False),
        ('{"a": []}', "{a:{}}", False),
    ],
)
def test_a_loss_is_seen(sent: str, delivered: str, kept: bool) -> None:
    assert filters._is_kept(sent, Delivered(delivered, "json-plain/2", 9, 8)) is kept
    assert not filters._is_kept(sent, Delivered(delivered, "", 9, 8))


def test_who_is_given_what() -> None:
    said = [("a", "b", "one"), ("b", "a", "two"), ("a", "b", "three"), ("a", "", "to nobody")]
    talk = {
        "messages": [
            {"kind": "message", "from": one, "to": other, "content": text}
            for one, other, text in said
        ]
    }

    def given(readers: Readers) -> list[list[str]]:
        return [[one.text for one in deliveries] for deliveries in readers(talk)]

    assert given(seen_by_one) == [["one", "two", "three", "to nobody"]]
    assert given(to_receiver) == [["one", "three"], ["two"]]
    both = list(by_receiver(talk))
    assert [[one.text for one in deliveries if one.counts] for deliveries in both] == given(
        to_receiver
    )
    assert [one.text for one in both[1]] == ["one", "two", "three", "to nobody"]
