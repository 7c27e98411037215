"""Suite `fanout`: one publisher, many subscribers in two other processes, a broker between."""

from __future__ import annotations

from collections.abc import Sequence

from ..fan import WINDOW
from ..peers import NATS
from ..report import Row, compare
from ..rounds import interleave
from ..suite import Progress, Suite
from ..workloads import PAYLOAD_BYTES, Load

__all__ = ["SUITE"]

OURS = "agentbus"
SUBSCRIBERS = (1, 10, 100)
QUICK = Load(rounds=5, warmup_s=0.4, latency_s=0.0, rate_s=0.6)
FULL = Load(rounds=11, warmup_s=2.0, latency_s=0.0, rate_s=2.0)


async def run(peers: Sequence[str], *, quick: bool, progress: Progress) -> list[Row]:
    """Measure each number of subscribers."""
    rows: list[Row] = []
    for count in SUBSCRIBERS:
        case = f"subscribers_{count}"
        targets = {OURS: f"perf.micro.fanout_side:contend:{count}"}
        if NATS.name in peers:
            targets[NATS.name] = f"perf.peers.nats_fanout:contend:{count}"
        results = await interleave(
            targets,
            QUICK if quick else FULL,
            lambda what, case=case: progress(f"{case}: {what}"),  # type: ignore[misc]
            "perf.fan:measure",
        )
        ours = results.pop(OURS)
        rows += compare(SUITE.name, case, ours, results)
    return rows


SUITE = Suite(
    name="fanout",
    peers=(NATS,),
    method=(
        f"one publisher, a broker, subscribers in two more processes, {PAYLOAD_BYTES} bytes a "
        "message; agentbus's publisher sends past its broker once it publishes much; "
        f"the publisher is at most {WINDOW} messages ahead of the slowest subscriber's "
        "reports; contenders take turns in rounds, medians over the rounds."
    ),
    run=run,
)
