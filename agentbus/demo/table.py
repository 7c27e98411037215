"""The comparison's figures: one report a way, as a table, as sentences and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median

from rich.table import Table

from .account import Account
from .content import new_content
from .equal import EqualWork
from .events import HopResult
from .script import Conversation

__all__ = [
    "AGENTBUS",
    "MEANINGS",
    "Comparison",
    "Ran",
    "WayReport",
    "sentences",
    "side_by_side",
    "to_json",
]

AGENTBUS = "agentbus"
"""The name of our own way, to which the others' ratios refer."""

MEANINGS: Mapping[str, str] = {
    "plain": "each request carries the whole transcript over HTTP; the engine reads all of it anew",
    "engine_cache": "the same, with an engine that reuses prefixes that it has read",
    "engine_cache_same_layout": "the same, with prompts laid out by hand as agentbus lays them out",
    AGENTBUS: "requests carry what is new, and the engine reads what is new",
}
"""What each way is, for people."""

_MS = 1000.0


@dataclass(frozen=True, slots=True)
class WayReport:
    """One way's whole run."""

    name: str
    transport: str
    results: tuple[HopResult, ...]
    account: Account

    @property
    def ttft_p50_ms(self) -> float:
        """Median time to first text over all hops, the first included."""
        return median(result.ttft_s for result in self.results) * _MS

    @property
    def sent_bytes(self) -> int:
        """Bytes of all requests on all legs."""
        return sum(result.sent_bytes for result in self.results)

    @property
    def received_bytes(self) -> int:
        """Bytes of all answers on all legs."""
        return sum(result.received_bytes for result in self.results)

    @property
    def sent_bytes_per_hop(self) -> float:
        """The mean."""
        return self.sent_bytes / len(self.results)

    @property
    def wall_s(self) -> float:
        """Sum over the hops."""
        return sum(result.wall_s for result in self.results)


@dataclass(frozen=True, slots=True)
class Ran:
    """What was run, when and on what."""

    model: str
    """As it was named."""
    at: str
    """When, by ISO 8601."""
    machine: str
    engine: str
    """How every way's engine computed."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One conversation held in several ways, with equal work."""

    conversation: Conversation
    ways: tuple[WayReport, ...]
    equal: EqualWork
    ran: Ran

    def way(self, name: str) -> WayReport:
        """Return the report of the way of that name."""
        return next(way for way in self.ways if way.name == name)


_Figure = tuple[str, Callable[[WayReport], float], str]

_FIGURES: tuple[_Figure, ...] = (
    ("tokens prefilled", lambda way: way.account.prefilled, "{:,.0f}"),
    ("bytes sent per hop", lambda way: way.sent_bytes_per_hop, "{:,.0f}"),
    ("TTFT p50, ms", lambda way: way.ttft_p50_ms, "{:,.1f}"),
    ("time, s", lambda way: way.wall_s, "{:,.1f}"),
)


def _times(value: float, base: float) -> str:
    return f"{value / base:.2f}×" if base else "–"


def side_by_side(comparison: Comparison) -> Table:
    """Return the table: a column a way, each figure also as a multiple of agentbus's."""
    table = Table(title="The same conversation, side by side", title_justify="left")
    table.add_column("")
    for way in comparison.ways:
        table.add_column(way.name.replace("_same", "\n_same"), justify="right")
    table.add_row("transport", *(way.transport for way in comparison.ways))
    table.add_row("hops", *(str(len(way.results)) for way in comparison.ways))
    table.add_row("tokens new", *(f"{way.account.new:,}" for way in comparison.ways))
    table.add_row("tokens reused", *(f"{way.account.reused:,}" for way in comparison.ways))
    table.add_row("prefilled per new token", *(f"{w.account.ratio:.2f}" for w in comparison.ways))
    ours = comparison.way(AGENTBUS)
    for title, figure, form in _FIGURES:
        table.add_section()
        table.add_row(title, *(form.format(figure(way)) for way in comparison.ways))
        base = figure(ours)
        table.add_row("  × agentbus", *(_times(figure(way), base) for way in comparison.ways))
    return table


def _relation(way: str, theirs: float, ours: float, words: tuple[str, str, str]) -> str:
    better, worse, alike = words
    if round(theirs / ours, 1) == 1 or round(ours / theirs, 1) == 1:
        return f"as {alike} as {way}"
    if theirs > ours:
        return f"{theirs / ours:.1f} times {better} than {way}"
    return f"{ours / theirs:.1f} times {worse} than {way}"


def sentences(comparison: Comparison) -> list[str]:
    """Return what the figures say in plain words, good or bad."""
    ours = comparison.way(AGENTBUS)
    others = [way for way in comparison.ways if way is not ours]
    time, size = ("sooner", "later", "soon"), ("fewer", "more", "many")
    latency = ", ".join(
        _relation(way.name, way.ttft_p50_ms, ours.ttft_p50_ms, time) for way in others
    )
    sent = ", ".join(_relation(way.name, way.sent_bytes, ours.sent_bytes, size) for way in others)
    return [
        f"agentbus prefilled {_per_new(ours)}; {'; '.join(map(_named_per_new, others))}.",
        f"Its first text came {latency} (median of {len(ours.results)} hops).",
        f"It sent {sent} (bytes of requests).",
        _beside_content_sentence(comparison),
        _equal_sentence(comparison.equal),
    ]


def _most_beside_content(comparison: Comparison) -> int:
    """Return the largest difference between a request of ours and the new text it had to carry."""
    contents = new_content(comparison.conversation)
    hops = zip(comparison.way(AGENTBUS).results, contents, strict=True)
    return max(
        leg.sent_bytes - new
        for result, content in hops
        for leg, new in zip(result.legs, content, strict=True)
    )


def _beside_content_sentence(comparison: Comparison) -> str:
    most = _most_beside_content(comparison)
    return (
        f"Each of its requests was at most {most:,} bytes longer than the text in it that was new "
        "to the receiving process."
    )


def _per_new(way: WayReport) -> str:
    account = way.account
    return f"{account.prefilled:,} tokens for {account.new:,} new ones ({account.ratio:.2f} each)"


def _named_per_new(way: WayReport) -> str:
    return f"{way.name} {way.account.ratio:.2f}"


def _equal_sentence(equal: EqualWork) -> str:
    return (
        f"Equal work, checked: every way decoded the same {sum(equal.decoded_per_hop):,} tokens in "
        f"{equal.hops} hops to the same text (SHA-256 {equal.transcript_sha256[:12]}…), and each "
        f"prompt held its role, document, question, asks and messages ({equal.pieces:,} found)."
    )


def to_json(comparison: Comparison) -> dict[str, object]:
    """Return the comparison as one object for `--json`. Times as the names say."""
    return {
        **asdict(comparison.ran),
        "ways": {way.name: _way_json(comparison.conversation, way) for way in comparison.ways},
        "equal_work": asdict(comparison.equal),
    }


def _way_json(conversation: Conversation, way: WayReport) -> dict[str, object]:
    return {
        "transport": way.transport,
        "hops": len(way.results),
        "tokens_new": way.account.new,
        "tokens_prefilled": way.account.prefilled,
        "tokens_reused": way.account.reused,
        "prefilled_per_new": way.account.ratio,
        "ttft_p50_ms": way.ttft_p50_ms,
        "sent_bytes": way.sent_bytes,
        "sent_bytes_per_hop": way.sent_bytes_per_hop,
        "received_bytes": way.received_bytes,
        "wall_s": way.wall_s,
        "per_hop": [_hop_json(conversation, way, index) for index in range(len(way.results))],
    }


def _hop_json(conversation: Conversation, way: WayReport, index: int) -> dict[str, object]:
    hop, result = conversation.hops[index], way.results[index]
    return {
        "source": hop.source,
        "target": hop.target,
        "legs": [
            {**asdict(leg), "new_content_bytes": new}
            for leg, new in zip(result.legs, new_content(conversation)[index], strict=True)
        ],
        "sent_bytes": result.sent_bytes,
        "received_bytes": result.received_bytes,
        "tokens": asdict(way.account.hops[index]),
        "ttft_ms": result.ttft_s * _MS,
        "wall_ms": result.wall_s * _MS,
    }
