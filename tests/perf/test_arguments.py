"""The cases `arguments…` of the suite `filters`: that what an agent needs is missed where it is gone."""

from __future__ import annotations

import json

import pytest

from agentbus.filters import Lossy, Shortened
from perf.macro import arguments
from perf.macro.arguments import argument_rows, arguments_of
from perf.report import Row


def call(**values: object) -> str:
    return json.dumps([{"name": "book", "arguments": json.dumps(values)}])


def test_arguments_are_the_values_of_all_calls() -> None:
    both = json.loads(call(a=[{"b": "HAT001"}, 250, 1.5], c=True, d=None)) + json.loads(
        call(e="xy")
    )
    assert arguments_of(json.dumps(both)) == {"HAT001", "250", "1.5"}


RESULT = json.dumps([{"flight": f"HAT{n:03}", "price": 100 + n} for n in range(20)], indent=1)
TALK = {
    "messages": [
        {"kind": "message", "from": "user", "content": "I am mia_li. Fly me to Rome."},
        {"kind": "tool_call", "from": "agent", "content": call(user="mia_li", day="2024-05-01")},
        {"kind": "tool_result", "from": "tools", "content": RESULT},
        {"kind": "tool_call", "from": "agent", "content": call(flight="HAT007", user="mia_li")},
    ]
}


class _Gone:
    """A filter that leaves nothing."""

    name = "gone/1"

    def shorten(self, text: str, **_: object) -> Shortened:
        return Shortened("gone", ((1, 1),))


def open_gone(name: str, use: object) -> Lossy | None:
    return _Gone() if name == "offload" else None


def test_what_is_gone_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "open_lossy", open_gone)
    rows = argument_rows([TALK, TALK], len)
    found = {(row.case, row.metric): row for row in rows}
    assert found["arguments, lossless", "recall_percent"].value == 100
    lossy = found["arguments, offload", "recall_percent"]
    assert lossy.value == pytest.approx(100 * 2 / 3), "the flight is gone; the day was never said"
    tokens = {name: found[f"arguments, {name}", "tokens"] for name in ("lossless", "offload")}
    sent = 2 * sum(len(str(one["content"])) for one in TALK["messages"])
    assert {row.peer_value for row in tokens.values()} == {sent}
    assert tokens["offload"].value == sent - 2 * (len(RESULT) - len("gone"))
    assert tokens["offload"].value < tokens["lossless"].value < sent


def test_a_filter_that_is_not_there_has_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "open_lossy", lambda name, use: None)
    rows: list[Row] = argument_rows([TALK], len)
    assert {row.case for row in rows} == {"arguments, lossless"}
    assert argument_rows([], len) == []
