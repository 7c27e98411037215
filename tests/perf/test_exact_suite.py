"""The rows of the suite `exactness`."""

from __future__ import annotations

from perf.exact.check import Drift, Verdict
from perf.exact.run import Found, windows_of
from perf.exact.suite import rows_of
from perf.report import VIOLATIONS

FINE, BAD = Verdict(100, 2, 0, 1), Verdict(100, 0, 3, 4)


def test_what_is_wrong_is_a_violation() -> None:
    found = Found("float32", 8, {"cold": FINE, "fork": BAD}, ["fork: a fork reused 0"], None)
    rows = {row.metric: row for row in rows_of(found)}
    assert {row.case for row in rows.values()} == {"float32_batch_8"}
    violations = {name: row.value for name, row in rows.items() if row.unit == VIOLATIONS}
    assert violations == {"cold_violations": 0, "fork_violations": 3, "reuse_violations": 1}
    assert rows["checked_tokens"].value == 200 and rows["skipped_percent"].value == 1.0


def test_bfloat16_stands_beside_the_references_own() -> None:
    found = Found("bfloat16", 1, {"cold": BAD}, [], Drift(0.25, 8))
    rows = {row.metric: row for row in rows_of(found)}
    assert rows["tolerance_score"].value == 0.5
    differing = rows["differing_tokens"]
    assert (differing.value, differing.peer_value, differing.ratio) == (4, 8, 2.0)


def test_windows_go_round_the_text() -> None:
    source = windows_of(tuple(range(10)))
    assert len(source("seed", 25)) == 25 and source("seed", 25) == source("seed", 25)
    first, *rest = source("seed", 25)
    assert rest == [(first + n) % 10 for n in range(1, 25)]
    assert len({source(str(n), 5) for n in range(50)}) > 5
