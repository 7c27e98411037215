"""The table of `agentbus filters report`."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agentbus.cli.filters_report import print_report
from agentbus.filters import Edge, FilterRow, Guard, report_rows


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def rows() -> tuple[FilterRow, ...]:
    guard = Guard()
    good, bad = Edge("a[b]", "writer", "offload/1"), Edge("user", "critic", "mask/1")
    for _ in range(8):
        guard.delivered(good, sent=2_000, delivered=500)
        guard.delivered(bad, sent=100, delivered=90)
    guard.retrieved(good, 700, turn=44)
    guard.lost(bad, 1_080)
    return report_rows([guard])


def test_each_edge_has_its_terms_and_its_net(
    rows: tuple[FilterRow, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    print_report(rows, json=False)
    shown = capsys.readouterr().out
    table = [line.replace("│", " ").split() for line in shown.splitlines()]
    good = "a[b] → writer 8 16,000 12,000 -744 11,256"
    bad = "user → critic 8 800 80 -1,080 -1,000"
    assert good.split() in table
    assert bad.split() in table
    total = "2 rows 16 16,800 12,080 -1,824 10,256"
    assert total.split() in table
    assert "mask/1 is off from user to critic: after 8 deliveries it has saved -1,000" in shown


def test_json_says_all(rows: tuple[FilterRow, ...], capsys: pytest.CaptureFixture[str]) -> None:
    print_report(rows, json=True)
    found = json.loads(capsys.readouterr().out)
    good, bad = found["edges"]
    assert (good["sender"], good["on"], good["why_off"]) == ("a[b]", True, None)
    assert good["retrievals"] == 1
    assert (bad["filter"], bad["on"], bad["net"]) == ("mask/1", False, -1_000)
    assert bad["why_off"].startswith("after 8 deliveries")
    assert found["total"]["net"] == good["net"] + bad["net"]


def test_an_empty_ledger_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    print_report([], json=False)
    assert capsys.readouterr().out == "No filter has shortened anything yet.\n"
    print_report([], json=True)
    assert json.loads(capsys.readouterr().out)["edges"] == []


def test_what_was_forgotten_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    guard = Guard(2)
    for number in range(3):
        guard.delivered(Edge(str(number), "writer", "offload/1"), sent=2, delivered=1)
    print_report(report_rows([guard]), json=False)
    assert "edges forgotten for room" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (80, "texts sent saved cost net"),
        (60, "sent saved cost net"),
        (40, "net"),
        (33, "net"),
    ],
)
def test_a_narrow_terminal_shows_what_matters_most(
    width: int,
    columns: str,
    rows: tuple[FilterRow, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_report([replace(row, sender="a.rather.long.name") for row in rows], json=False)
    table = [line for line in capsys.readouterr().out.splitlines() if line[:1] in "┏┃│└"]
    assert all(line[-1] in "┓┃│┘" for line in table), "cut off"
    assert table[1].replace("┃", " ").split() == ["edge,", "filter", *columns.split()]
    assert sum("11,256" in line for line in table) == 1
    edges = "".join(line.split("│")[1].strip() for line in table if line[0] == "│")
    assert "a.rather.long.name" in edges
