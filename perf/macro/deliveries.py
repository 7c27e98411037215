"""What conversations take when each message is delivered once, behind those before it.

A reader is given what was addressed to it, and has what it said itself; or it sees all. Whether
anything was lost is looked into by reading each delivery back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from time import perf_counter
from typing import Any, NamedTuple

from agentbus.config import FilterRule
from agentbus.context import Context, Given, Ledger, SegmentKind, TenantKey
from agentbus.errors import FormBroken
from agentbus.filters import LOSSLESS, REFERENCES, Pipeline, open_lossy, plan_of, read_back

from .json_values import same_values

__all__ = [
    "LATENCY_CHARACTERS",
    "Delivery",
    "Sums",
    "by_receiver",
    "deliver",
    "seen_by_one",
    "to_receiver",
]

LATENCY_CHARACTERS = 10_240
"""What a latency is given for; shorter texts count as themselves."""
_LOSSLESS = (FilterRule(use=("lossless",)),)
_PROGRAMS = frozenset(["tool_result"])

Count = Callable[[str], int]


class Delivery(NamedTuple):
    """One message to one reader."""

    sender: str
    text: str
    kind: SegmentKind
    counts: bool
    """Whether it was said to the reader, and not by it."""


@dataclass(slots=True)
class Sums:
    """What deliveries took, in tokens."""

    sent: int = 0
    delivered: int = 0
    grown: int = 0
    lost: int = 0
    moved: int = 0
    """Deliveries after which something stood elsewhere in the prompt than before."""
    latencies: list[float] = field(default_factory=list)
    """Seconds for `LATENCY_CHARACTERS`."""

    def figures(self) -> dict[str, float]:
        """Return the metrics of a row."""
        return {
            "tokens": float(self.delivered),
            "saved_percent": 100 * (1 - self.delivered / self.sent),
            "p99_ms": 1e3 * quantiles([0.0, *self.latencies], n=100, method="inclusive")[-1],
            "grown_violations": float(self.grown),
            "lost_violations": float(self.lost),
            "moved_violations": float(self.moved),
        }


def seen_by_one(conversation: Mapping[str, Any]) -> Iterator[Sequence[Delivery]]:
    """Yield what a reader is given who sees all."""
    yield [_delivery(message, counts=True) for message in conversation["messages"]]


def by_receiver(conversation: Mapping[str, Any]) -> Iterator[Sequence[Delivery]]:
    """Yield what each reader is given that the log names."""
    messages = conversation["messages"]
    for reader in dict.fromkeys(message["to"] for message in messages if message["to"]):
        yield [
            _delivery(message, counts=message["to"] == reader)
            for message in messages
            if reader in (message["to"], message["from"])
        ]


def to_receiver(conversation: Mapping[str, Any]) -> Iterator[Sequence[Delivery]]:
    """Yield what each reader is given that the log names, as if it had not what it said itself."""
    for deliveries in by_receiver(conversation):
        yield [one for one in deliveries if one.counts]


def _delivery(message: Mapping[str, Any], *, counts: bool) -> Delivery:
    program = message["kind"] in _PROGRAMS
    kind = SegmentKind.TOOL_RESULT if program else SegmentKind.MESSAGE
    return Delivery(message["from"], message["content"], kind, counts)


def deliver(
    readers: Iterable[Sequence[Delivery]],
    count: Count,
    sums: Sums,
    *,
    only: Callable[[str], bool] = lambda _: True,
) -> None:
    """Deliver to each reader, and add up what it is given of texts that `only` is true of."""
    plan = plan_of(_LOSSLESS, "reader")
    for deliveries in readers:
        pipeline = Pipeline(count, Ledger(), open_lossy)
        context = TenantKey().empty()
        before = pipeline.deliver(context, plan, "reader")
        for one in deliveries:
            context = context.add(one.kind, one.sender, one.text)
            begun = perf_counter()
            given = pipeline.deliver(context, plan, "reader")
            taken = perf_counter() - begun
            size = max(len(one.text), LATENCY_CHARACTERS)
            sums.latencies.append(taken * LATENCY_CHARACTERS / size)
            sums.moved += not _goes_on(before.context, given.context)
            if one.counts and only(one.text):
                _add(one.text, given, before, sums, count)
            before = given


def _add(text: str, given: Given, before: Given, sums: Sums, count: Count) -> None:
    if given.receipt is None:
        return
    decision = given.receipt.decision
    sent = decision.sent_tokens or count(text)
    sums.sent += sent
    sums.delivered += decision.delivered_tokens or sent
    sums.grown += decision.delivered_tokens > decision.sent_tokens
    if decision.text is not None:
        sums.lost += not _is_kept(text, decision.text, decision.filters, before)


def _goes_on(before: Context, after: Context) -> bool:
    return after.parent is not None and after.parent.root == before.root


def _is_kept(text: str, written: str, form: str, before: Given) -> bool:
    try:
        read, exact = read_back(written, form, LOSSLESS, tuple(REFERENCES.values()), before.earlier)
    except FormBroken:
        return False
    return read == text if exact == "bytes" else same_values(read, text)
