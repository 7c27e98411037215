"""Suite `stream`: tokens from a handler in another process, flat out and as an engine paces them."""

from __future__ import annotations

from collections.abc import Sequence

from ..peers import GRPC
from ..report import Row, compare
from ..rounds import interleave
from ..suite import Progress, Suite
from ..tokens import STREAMS, TOKENS_PER_S
from ..workloads import Load

__all__ = ["SUITE"]

OURS = "agentbus"
QUICK = Load(rounds=5, warmup_s=0.6, latency_s=0.0, rate_s=0.5, open_s=2.0)
FULL = Load(rounds=11, warmup_s=2.0, latency_s=0.0, rate_s=1.5, open_s=4.0)
CASES = {"one_flat_out": "per_token_", f"{STREAMS}_paced": "added_"}
"""Each case, and how its metrics begin."""


async def run(peers: Sequence[str], *, quick: bool, progress: Progress) -> list[Row]:
    """Measure both cases in the same rounds."""
    targets = {OURS: "perf.micro.stream_side:contend"}
    if GRPC.name in peers:
        targets[GRPC.name] = "perf.peers.grpc_stream:contend"
    load = QUICK if quick else FULL
    results = await interleave(targets, load, progress, "perf.tokens:measure")
    rows: list[Row] = []
    for case, prefix in CASES.items():
        figures = {
            name: {metric: value for metric, value in of.items() if metric.startswith(prefix)}
            for name, of in results.items()
        }
        ours = figures.pop(OURS)
        rows += compare(SUITE.name, case, ours, figures)
    return rows


SUITE = Suite(
    name="stream",
    peers=(GRPC,),
    method=(
        f"tokens from another process over a Unix socket: one stream flat out, and {STREAMS} "
        f"streams at {TOKENS_PER_S} tokens/s each, all due at the same moments; added_* is how "
        "late a token came to its reader; contenders take turns in rounds, medians over the rounds."
    ),
    run=run,
)
