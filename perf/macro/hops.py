"""Suite `hops`: the demo's conversation over agentbus and in the three ordinary ways.

The ways are the suite's peers. Recording the conversation, replaying it interleaved and checking
that the work is equal is `agentbus.demo`'s business.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from agentbus.demo import (
    DEFAULT_QUESTION,
    AgentbusWay,
    Event,
    HopEnded,
    WayReport,
    compare,
    engine_settings,
    hold,
    load_default_document,
    stage,
    write_page,
)

from ..peers import Peer
from ..report import Row
from ..report import compare as compare_figures
from ..suite import Progress, Suite

__all__ = ["SUITE"]

MODEL = "smollm2"
TOKENS = 24
QUICK_TOKENS = 2
QUICK_DOCUMENT_CHARACTERS = 200

WAYS = tuple(Peer(name, ()) for name in ("plain", "engine_cache", "engine_cache_same_layout"))

FIGURES: Mapping[str, Callable[[WayReport], float]] = {
    "prefilled_tokens": lambda way: way.account.prefilled,
    "ttft_p50_ms": lambda way: way.ttft_p50_ms,
    "sent_bytes": lambda way: way.sent_bytes,
    "wall_s": lambda way: way.wall_s,
}


async def run(peers: Sequence[str], *, quick: bool, progress: Progress) -> list[Row]:
    """Hold the conversation, replay it in all ways, and compare with those that are named."""

    def tell(event: Event) -> None:
        if isinstance(event, HopEnded):
            progress(f"hop {event.index + 1}: {event.way}")

    document = load_default_document()
    if quick:
        document = document[:QUICK_DOCUMENT_CHARACTERS]
    tokens = QUICK_TOKENS if quick else TOKENS
    settings = engine_settings()
    async with stage(MODEL, settings) as team:
        said, _ = await hold(team, document, DEFAULT_QUESTION, max_tokens=tokens, progress=tell)
    async with stage(MODEL, settings, recorded=said) as team:
        ours = AgentbusWay(team, said)
        compared = await compare(said, ours, model_spec=MODEL, settings=settings, progress=tell)
    print(f"Page with plots of every hop: {write_page(compared)}", file=sys.stderr)
    figures = {
        way.name: {metric: figure(way) for metric, figure in FIGURES.items()}
        for way in compared.ways
    }
    theirs = {name: figures[name] for name in peers}
    return compare_figures(SUITE.name, "team", figures[AgentbusWay.name], theirs)


SUITE = Suite(
    name="hops",
    peers=WAYS,
    method=(
        "one conversation of four agents and twelve hops on SmolLM2, recorded over agentbus and "
        "replayed hop by hop in all ways in turn, with the same decoded tokens; medians over hops."
    ),
    run=run,
)
