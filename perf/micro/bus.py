"""Suite `bus`: one request and its reply, in one process, over a Unix socket, over tcp.

Which module drives a contender stands here; how it is driven stands in `rounds` and `workloads`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..peers import AUTOGEN, AUTOGEN_GRPC, GRPC, NATS, RAW_POLLING, RAW_UVLOOP, REDIS
from ..report import Row, compare
from ..rounds import interleave
from ..suite import Progress, Suite
from ..workloads import FULL, MAX_OPEN_REQ_S, PAYLOAD_BYTES, QUICK, Load

__all__ = ["SUITE"]

OURS = "agentbus"


@dataclass(frozen=True, slots=True)
class _Case:
    ours: str
    peers: Mapping[str, str]
    several_processes: bool


CASES: Mapping[str, _Case] = {
    "inproc": _Case(
        "perf.micro.agentbus_side:inproc",
        {AUTOGEN.name: "perf.peers.autogen:contend"},
        several_processes=False,
    ),
    "unix": _Case(
        "perf.micro.agentbus_side:unix",
        {
            RAW_UVLOOP.name: "perf.peers.raw_uvloop:contend",
            RAW_POLLING.name: "perf.peers.raw_uvloop:contend_polling",
            NATS.name: "perf.peers.nats:contend",
            GRPC.name: "perf.peers.grpc:contend",
            REDIS.name: "perf.peers.redis:contend",
            AUTOGEN_GRPC.name: "perf.peers.autogen_grpc:contend",
        },
        several_processes=True,
    ),
    "tcp_curve": _Case(
        "perf.micro.agentbus_side:tcp_curve",
        {NATS.name: "perf.peers.nats:contend"},
        several_processes=True,
    ),
}


async def run(peers: Sequence[str], *, quick: bool, progress: Progress) -> list[Row]:
    """Measure each case against those of its peers that are named."""
    rows: list[Row] = []
    for name in CASES:
        rows += await _run_case(name, peers, QUICK if quick else FULL, progress)
    return rows


async def _run_case(name: str, peers: Sequence[str], load: Load, progress: Progress) -> list[Row]:
    case = CASES[name]
    targets = {peer: target for peer, target in case.peers.items() if peer in peers}
    results = await interleave(
        {OURS: case.ours, **targets},
        replace(load, one_core=case.several_processes),
        lambda what: progress(f"{name}: {what}"),
    )
    ours = results.pop(OURS)
    return compare(SUITE.name, name, ours, results)


SUITE = Suite(
    name="bus",
    peers=(RAW_UVLOOP, RAW_POLLING, AUTOGEN, NATS, GRPC, REDIS, AUTOGEN_GRPC),
    method=(
        f"closed loop, {PAYLOAD_BYTES} bytes a message; p50, p99 and p999 at one request at a time, "
        f"req_s with {FULL.in_flight} in flight, one_core_p50_us with all of a contender's "
        "processes on one core, cpu_us the CPU time of all of them a request; open_*: requests arrive "
        "at the fixed rate open_req_s, half of the contender's own req_s and at most "
        f"{MAX_OPEN_REQ_S:,.0f}, latency from when they are due (not in --quick); contenders take turns in rounds, medians over the rounds."
    ),
    run=run,
)
