"""Suite `telemetry`: what accounts, metrics and spans cost, against a bus that notes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from ..report import Row, compare
from ..rounds import interleave
from ..suite import Progress, Suite
from ..workloads import Load

__all__ = ["SUITE"]

ON = "agentbus"
OFF = "all_off"
QUICK = Load(rounds=81, warmup_s=0.5, latency_s=0.0, rate_s=0.1)
FULL = Load(rounds=301, warmup_s=2.0, latency_s=0.0, rate_s=0.15)
CASES = ("inproc", "unix")


async def run(peers: Sequence[str], *, quick: bool, progress: Progress) -> list[Row]:
    """Measure each case with all on and all off, in the same rounds."""
    rows: list[Row] = []
    for case in CASES:
        progress(case)
        side = f"perf.micro.telemetry_side:{case}"
        results = await interleave(
            {ON: f"{side}:on", OFF: f"{side}:off"},
            QUICK if quick else FULL,
            progress,
            "perf.micro.telemetry_side:measure",
        )
        rows += compare(SUITE.name, case, results.pop(ON), results)
    return rows


SUITE = Suite(
    name="telemetry",
    peers=(),
    method=(
        "the load of the suite `bus` with accounts, metrics and spans as they are by default (1 % of "
        f"traces and all errors, written to a file), against `{OFF}`: TelemetrySettings("
        "enabled=False), where no clock is read, no time kept and no span made; what stays are "
        "the trace's id in the header and a counter of requests. "
        f"req_s with {FULL.in_flight} in flight, cpu_us the CPU time of all processes for each; both take turns in rounds, medians over the rounds."
    ),
    run=run,
)
