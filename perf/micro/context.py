"""Suite `context`: what a hop with a context costs in bytes, and what a full store costs in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..report import Row, compare
from ..rounds import interleave
from ..suite import Progress, Suite
from ..workloads import Load
from .context_side import HOPS, Counted, count_hops
from .context_store import LENGTH, TEXT_CHARACTERS

__all__ = ["BEYOND_NEW_BYTES", "SLOPE", "SUITE", "violations"]

LENGTHS = (10, 100, 1_000)
"""Segments of the contexts whose hops are counted."""
SIZES = (10_000, 1_000_000)
"""Segments in the store."""
BEYOND_NEW_BYTES = 256
"""A message takes at most so many bytes more than what is new to its receiver."""
SLOPE = 0.01
"""From the shortest context to the longest, a message's bytes grow by less than this share."""
QUICK = Load(rounds=3, warmup_s=0.5, latency_s=0.5, rate_s=0.0)
FULL = Load(rounds=11, warmup_s=1.0, latency_s=2.0, rate_s=0.0)


async def run(peers: Sequence[str], *, quick: bool, progress: Progress) -> list[Row]:
    """Count hops, then time a small store and a large one in the same rounds."""
    counted: dict[int, Counted] = {}
    for length in LENGTHS:
        progress(f"hops of {length} segments")
        counted[length] = await count_hops(length)
    cases = {f"store_{size}": f"perf.micro.context_store:contend:{size}" for size in SIZES}
    measure = "perf.micro.context_store:measure"
    timed = await interleave(cases, QUICK if quick else FULL, progress, measure)
    return [*_hops(counted), *_stores(timed)]


def violations(one: Counted, shortest: Counted) -> int:
    """Return how many of the promises about bytes do not hold for contexts of one length."""
    beyond = (
        one.worst_request_beyond_new,
        one.worst_reply_beyond_new,
        one.forgot_beyond_new,
    )
    too_much = sum(value > BEYOND_NEW_BYTES for value in beyond)
    return too_much + (one.request > shortest.request * (1 + SLOPE))


def _hops(counted: Mapping[int, Counted]) -> list[Row]:
    rows: list[Row] = []
    shortest = f"hop_{LENGTHS[0]}"
    reference = {"request_bytes": counted[LENGTHS[0]].request}
    for length, one in counted.items():
        figures = {
            "request_bytes": one.request,
            "new_bytes": one.new,
            "request_beyond_new_bytes": one.worst_request_beyond_new,
            "reply_beyond_new_bytes": one.worst_reply_beyond_new,
            "forgot_beyond_new_bytes": one.forgot_beyond_new,
            "violations": violations(one, counted[LENGTHS[0]]),
        }
        case = f"hop_{length}"
        rows += compare(SUITE.name, case, figures, {shortest: reference} if rows else {})
    return rows


def _stores(timed: Mapping[str, Mapping[str, float]]) -> list[Row]:
    smallest, *others = timed
    reference = {key: value for key, value in timed[smallest].items() if key.endswith("_us")}
    rows = compare(SUITE.name, smallest, timed[smallest], {})
    for case in others:
        rows += compare(SUITE.name, case, timed[case], {smallest: reference})
    return rows


SUITE = Suite(
    name="context",
    peers=(),
    method=(
        f"hop_N: {HOPS} requests with a context of N segments and a segment more each time, to a "
        "process that adds one, over Unix sockets with a proxy between that counts all bytes; "
        "new_bytes is author and text of the segment that is new to the receiver, beyond_new the worst "
        "hop's bytes less those, of the reply too; forgot: request, WANT and HAVE, by the account, when the "
        "receiver had forgotten all, less author and text of all; violations counts what is over "
        f"{BEYOND_NEW_BYTES} or grows by more than {SLOPE:.0%} from hop_{LENGTHS[0]}. store_N: a full "
        f"store of N segments of {TEXT_CHARACTERS} characters in conversations of {LENGTH}, unpacking "
        "and resolving one new segment on a conversation chosen at random, for which another is "
        "forgotten; the peer is the smaller store, medians over rounds."
    ),
    run=run,
)
