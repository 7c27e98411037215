"""What one process counts, and the values in which it reports that.

Whoever does the work holds the object that counts and adds to it: an attribute increment, no lock,
no clock, no look-up of labels. A report is a frozen copy that can travel; rates, percentiles and
any text form are made of reports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

from .account import ModelCost
from .trace import SpanLog

__all__ = [
    "BLIND",
    "BUCKETS",
    "TIMES",
    "AgentMetrics",
    "AgentReport",
    "BusReport",
    "Distribution",
    "EngineReport",
    "Histogram",
    "LinkReport",
    "Metrics",
    "Observer",
    "TimeLog",
    "upper_bound",
]

BUCKETS: Final = 32
"""Buckets of a histogram. Bucket k holds times under 2**k microseconds, the last all the rest."""
TIMES: Final = 768
"""Entries that wait in a `TimeLog` before they are sorted in; three a request."""
_MICROSECONDS: Final = 1e6
_LAST: Final = BUCKETS - 1


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a histogram held at one moment: a count for each bucket, and the sum in seconds."""

    counts: tuple[int, ...]
    total_s: float

    @property
    def count(self) -> int:
        """How many times were observed."""
        return sum(self.counts)

    def since(self, before: Distribution) -> Distribution:
        """Return what was observed after `before` was taken."""
        pairs = zip(self.counts, before.counts, strict=True)
        counts = tuple(now - then for now, then in pairs)
        return Distribution(counts, self.total_s - before.total_s)

    def quantile(self, share: float) -> float | None:
        """Return the upper bound, in seconds, of the bucket that holds the quantile `share`.

        At most twice the true quantile. None where nothing was observed.
        """
        wanted = share * self.count
        seen = 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                return upper_bound(bucket)
        return None


def upper_bound(bucket: int) -> float:
    """Return the bound of a bucket in seconds."""
    return float(2**bucket) / _MICROSECONDS


class Histogram:
    """Times in buckets that double."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.total_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count a time, which is not negative."""
        bucket = int(seconds * 1e6).bit_length()
        self.counts[min(_LAST, bucket)] += 1
        self.total_s += seconds

    def report(self) -> Distribution:
        """Return what it holds now."""
        return Distribution(tuple(self.counts), self.total_s)


@dataclass(frozen=True, slots=True)
class Observer:
    """With what a process looks at its requests: a clock, in seconds, and a log of spans.

    Without a log, times are not kept either.
    """

    clock: Callable[[], float]
    spans: SpanLog | None = None


BLIND: Final = Observer(repeat(0.0).__next__)
"""Sees nothing: each moment is 0. A clock of C that does not look is the cheapest there is."""


def _add(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1


class AgentMetrics:
    """What one agent's mailbox counts.

    A process may have very many: the buckets of both times of a request lie side by side, which
    spares each request half of the memory that it would touch in two histograms.
    """

    __slots__ = (
        "_counts",
        "_decoded",
        "_failures",
        "_handle_s",
        "_left_out",
        "_lost",
        "_prefilled",
        "_queue_s",
        "_repairs",
        "_reused",
        "_saved",
        "_structured",
        "_ttft",
        "_unparsable",
    )

    def __init__(self) -> None:
        self._counts: list[int] = []
        """By bucket, of times in the mailbox at even places and of times in the handler at odd; up
        to the highest bucket so far."""
        self._queue_s = self._handle_s = 0.0
        self._failures: dict[str, int] | None = None
        self._reused = self._prefilled = self._decoded = self._lost = self._saved = 0
        self._left_out = self._structured = self._unparsable = self._repairs = 0
        self._ttft: Histogram | None = None
        """There once a model was called."""

    def replied(self, queue_s: float, handle_s: float) -> None:
        """Count a request that ended with a reply: its seconds in the mailbox and in the handler."""
        counts = self._counts
        queue, handle = int(queue_s * 1e6).bit_length(), int(handle_s * 1e6).bit_length()
        if queue > _LAST or handle > _LAST:
            queue, handle = min(_LAST, queue), min(_LAST, handle)
        missing = 2 * max(queue, handle) + 2 - len(counts)
        if missing > 0:
            counts += [0] * missing
        counts[2 * queue] += 1
        counts[2 * handle + 1] += 1
        self._queue_s += queue_s
        self._handle_s += handle_s

    def failed(self, code: str) -> None:
        """Count a request that was refused or ended with an error."""
        if self._failures is None:
            self._failures = {}
        _add(self._failures, code)

    def charged(self, cost: ModelCost) -> None:
        """Count the tokens of a request's model calls, and which answers held what they were to."""
        self._reused += cost.reused_tokens
        self._prefilled += cost.prefilled_tokens
        self._decoded += cost.decoded_tokens
        self._lost += cost.lost_tokens
        self._saved += cost.saved_tokens
        self._left_out += cost.left_out_tokens
        self._structured += cost.structured_answers
        self._unparsable += cost.unparsable_answers
        self._repairs += cost.repairs
        if cost.calls == 1:  # the times of several are only known as their sum
            self._ttft = self._ttft or Histogram()
            self._ttft.observe(cost.ttft_s)

    def report(self, name: str, waiting: int, model: str = "") -> AgentReport:
        """Return what was counted for the agent `name`, in whose mailbox so many wait now."""
        counts = self._counts + [0] * (2 * BUCKETS - len(self._counts))
        return AgentReport(
            name=name,
            model=model,
            waiting=waiting,
            failures=dict(self._failures or {}),
            queue=Distribution(tuple(counts[::2]), self._queue_s),
            handle=Distribution(tuple(counts[1::2]), self._handle_s),
            reused_tokens=self._reused,
            prefilled_tokens=self._prefilled,
            decoded_tokens=self._decoded,
            lost_tokens=self._lost,
            saved_tokens=self._saved,
            left_out_tokens=self._left_out,
            structured_answers=self._structured,
            unparsable_answers=self._unparsable,
            repairs=self._repairs,
            ttft=(self._ttft or Histogram()).report(),
        )


class TimeLog:
    """Times of a process's requests that wait to be sorted into the histograms of their agents.

    Sorting each in as it ends would make a request within the process slower: by 4 % where there
    are a few agents, by more where there are many, whose histograms are in cold memory.
    """

    __slots__ = ("times",)

    def __init__(self) -> None:
        self.times: list[Any] = []
        """For each request that ended with a reply, the `AgentMetrics` of its agent, its seconds in
        the mailbox and in the handler. Who appends them calls `sort_in` when `TIMES` wait."""

    def sort_in(self) -> None:
        """Move what waits into the histograms."""
        times = self.times
        for metrics, queue_s, handle_s in zip(times[::3], times[1::3], times[2::3], strict=True):
            metrics.replied(queue_s, handle_s)
        times.clear()


class Metrics:
    """What a process counts that belongs to no agent of its own."""

    __slots__ = ("clock", "dropped", "failures", "published", "sent", "spans")

    def __init__(self, observer: Observer = BLIND) -> None:
        self.clock = observer.clock
        self.spans = observer.spans
        self.sent = 0
        """Requests made here."""
        self.failures: dict[str, int] = {}
        """Requests made here that ended with an error, by its code."""
        self.published = 0
        self.dropped = 0
        """Published messages that did not reach a subscriber here, or a link."""

    def failed(self, code: str) -> None:
        """Count a request made here that ended with an error."""
        _add(self.failures, code)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentReport:
    """One agent, since it was spawned."""

    name: str
    model: str
    """The model that it asks; empty if it has none."""
    waiting: int
    """Messages in its mailbox."""
    failures: Mapping[str, int]
    """Requests refused or ended with an error, by the error's code."""
    queue: Distribution
    """Seconds in the mailbox, of requests that ended with a reply."""
    handle: Distribution
    """Seconds in the handler, of the same requests."""
    reused_tokens: int
    prefilled_tokens: int
    decoded_tokens: int
    lost_tokens: int
    """Of those prefilled, about how many the caller's last prompt had too, in another place."""
    saved_tokens: int
    """That prompts would have had more without filters, reused or prefilled."""
    left_out_tokens: int
    """Of those, what lossy filters have left out."""
    structured_answers: int
    """Its model's answers that were to hold a value of a type."""
    unparsable_answers: int
    """Those of them that held none."""
    repairs: int
    """Those of them that were asked for after one that held none."""
    ttft: Distribution
    """Seconds to the first token, of requests that made one model call."""

    @property
    def replies(self) -> int:
        """Requests that ended with a reply."""
        return self.handle.count


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What an engine read ahead of calls since it was started, in tokens."""

    name: str
    """Of the agent that serves it."""
    prefetched_tokens: int
    used_tokens: int
    """Those of them that a call has reused since; the others were computed for nothing so far."""


@dataclass(frozen=True, slots=True)
class LinkReport:
    """One open link, since it was opened. Bytes include framing."""

    peer: str
    sent_bytes: int
    received_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BusReport:
    """One process's part in a bus, since it was opened."""

    agents: tuple[AgentReport, ...]
    links: tuple[LinkReport, ...]
    sent: int
    """Requests made here."""
    failures: Mapping[str, int]
    """Requests made here that ended with an error, by its code."""
    published: int
    dropped: int
    missed_deadlines: int
    """Deadlines that passed here, of requests made here and of requests handled for others."""
    under_way: int
    """Requests that have not ended: made here, or handled for other processes."""
    engines: tuple[EngineReport, ...] = ()
