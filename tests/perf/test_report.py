"""Rows, ratios and the table."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from perf.report import Row, compare, ratio, show, unit_of, write_json

KEYS = ["suite", "case", "metric", "value", "unit", "peer", "peer_value", "ratio"]


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        ("p50_us", "us"),
        ("ttft_p50_ms", "ms"),
        ("per_token_us", "us"),
        ("req_s", "req_s"),
        ("peak_req_s", "req_s"),
        ("wall_s", "s"),
        ("sent_bytes", "bytes"),
        ("prefilled_tokens", "tokens"),
    ],
)
def test_a_metric_ends_in_its_unit(metric: str, unit: str) -> None:
    assert unit_of(metric) == unit


def test_a_metric_without_a_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="'speedus' does not end in a unit"):
        unit_of("speedus")


def test_ratio_over_one_is_better_in_both_directions() -> None:
    assert ratio("p50_us", 10.0, 40.0) == 4.0
    assert ratio("req_s", 40.0, 10.0) == 4.0
    assert ratio("wall_s", 40.0, 10.0) == 0.25


@given(
    st.sampled_from(["p50_us", "req_s", "sent_bytes", "tok_s"]),
    st.floats(min_value=1e-3, max_value=1e9),
    st.floats(min_value=1e-3, max_value=1e9),
)
def test_ratio_turns_round_when_sides_are_swapped(metric: str, ours: float, theirs: float) -> None:
    there, back = ratio(metric, ours, theirs), ratio(metric, theirs, ours)
    assert there is not None and back is not None
    assert there * back == pytest.approx(1.0)


def test_nothing_is_compared_with_zero() -> None:
    assert ratio("p50_us", 0.0, 1.0) is None
    assert ratio("req_s", 1.0, 0.0) is None


def test_each_peer_gets_its_row_and_a_lone_metric_one_without() -> None:
    rows = compare(
        "bus",
        "unix",
        {"p50_us": 10.0, "req_s": 100.0},
        {"a": {"p50_us": 20.0}, "b": {"p50_us": 5.0}},
    )
    assert rows == [
        Row("bus", "unix", "p50_us", 10.0, "us", "a", 20.0, 2.0),
        Row("bus", "unix", "p50_us", 10.0, "us", "b", 5.0, 0.5),
        Row("bus", "unix", "req_s", 100.0, "req_s", None, None, None),
    ]


def test_json_is_an_array_of_rows_with_the_agreed_keys(tmp_path: Path) -> None:
    target = tmp_path / "rows.json"
    write_json(target, compare("bus", "inproc", {"p50_us": 10.0}, {"a": {"p50_us": 20.0}}))
    (row,) = json.loads(target.read_text())
    assert list(row) == KEYS
    assert row["ratio"] == 2.0


def test_the_table_shows_each_row_versions_and_method() -> None:
    out = io.StringIO()
    rows = compare("bus", "unix", {"p50_us": 10.0}, {"a": {"p50_us": 20.0}, "b": {"p50_us": 5.0}})
    show(Console(file=out, width=120), "perf bus", rows, {"Python": "3.x"}, "closed loop.")
    text = out.getvalue()
    for part in ("perf bus", "2.00", "0.50", "cores", "Python 3.x", "closed loop."):
        assert part in text
    assert text.count("unix") == 1


def test_a_narrow_table_cuts_no_name() -> None:
    out = io.StringIO()
    case, metric, peer = "agentic_coding_subagents, pool 20%", "worst_below_lru_points", "a" * 24
    rows = compare("reuse", case, {metric: 123_456_789.0}, {peer: {metric: 1_234.0}})
    show(Console(file=out, width=80), "perf reuse", rows, {}, "")
    assert "…" not in out.getvalue()
    lines = [line.split("│")[1:-1] for line in out.getvalue().splitlines() if "│" in line]
    cells = ["".join(cell.strip() for cell in column) for column in zip(*lines, strict=True)]
    assert cells[0].replace(" ", "") == case.replace(" ", "") + metric
    assert cells[1:4] == ["123,456,789", peer, "1,234"]
