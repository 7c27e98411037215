"""A short run with a few agents in one process."""

from __future__ import annotations

import pytest

from perf.micro import scale
from perf.micro.scale import SUITE
from perf.suite import Progress
from perf.workloads import Load


@pytest.mark.anyio
async def test_more_agents_are_compared_with_the_fewest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "SIZES", (3, 3000))
    monkeypatch.setattr(scale, "QUICK", Load(rounds=1, warmup_s=0.02, latency_s=0.02, rate_s=0.0))
    seen: list[str] = []
    progress: Progress = seen.append
    rows = await SUITE.run([], quick=True, progress=progress)
    for kind in ("notes", "keepers"):
        few = {row.metric: row for row in rows if row.case == f"{kind}_3"}
        many = {row.metric: row for row in rows if row.case == f"{kind}_3000"}
        metrics = {"rss_growth_mib", "spawn_us", "p50_us", "p99_us", "p999_us"}
        assert set(few) == set(many) == metrics
        assert many["rss_growth_mib"].value > few["rss_growth_mib"].value
        assert many["rss_growth_mib"].peer is None
        assert many["p50_us"].peer == f"{kind}_3"
        assert many["p50_us"].peer_value == few["p50_us"].value
