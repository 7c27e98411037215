"""A short run of the suite `context`, and what it calls a violation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perf.micro import context
from perf.micro.context import BEYOND_NEW_BYTES, SUITE, violations
from perf.micro.context_side import Counted
from perf.workloads import Load

GOOD = Counted(700.0, 600, 90.0, 120.0, 95.0, 160.0)


def test_violations_are_counted() -> None:
    assert violations(GOOD, GOOD) == 0
    assert violations(replace(GOOD, request=706.0), GOOD) == 0
    assert violations(replace(GOOD, request=708.0), GOOD) == 1
    over = BEYOND_NEW_BYTES + 1.0
    for field in ("worst_request_beyond_new", "worst_reply_beyond_new", "forgot_beyond_new"):
        assert violations(replace(GOOD, **{field: over}), GOOD) == 1


@pytest.mark.anyio
async def test_hops_take_what_is_new_and_a_full_store_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(context, "LENGTHS", (10, 60))
    monkeypatch.setattr(context, "SIZES", (200, 2000))
    load = Load(rounds=1, warmup_s=0.02, latency_s=0.05, rate_s=0.0)
    monkeypatch.setattr(context, "QUICK", load)
    rows = await SUITE.run([], quick=True, progress=lambda what: None)
    figures = {(row.case, row.metric): row for row in rows}
    for length in (10, 60):
        case = f"hop_{length}"
        assert figures[case, "violations"].value == 0
        assert figures[case, "request_bytes"].value > figures[case, "new_bytes"].value > 600
        assert 0 < figures[case, "forgot_beyond_new_bytes"].value < BEYOND_NEW_BYTES
    assert figures["hop_60", "request_bytes"].peer_value == figures["hop_10", "request_bytes"].value
    many = figures["store_2000", "resolve_p50_us"]
    assert (many.peer, many.peer_value) == (
        "store_200",
        figures["store_200", "resolve_p50_us"].value,
    )
    assert 0 < many.value <= figures["store_2000", "resolve_p99_us"].value
