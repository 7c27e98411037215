"""How a process takes part in a bus."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from ..errors import ConfigError
from .checks import KIB, MIB, MOST, STRICT, require_positive
from .filter_rule import MAX_FILTER_RULES, FilterRule

__all__ = [
    "BusSettings",
    "LayoutSetting",
    "Limits",
    "TelemetrySettings",
]

LayoutSetting = Literal["by_role", "auto", "roster_first", "shared_first", "role_first"]
_LAYOUTS = get_args(LayoutSetting)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what a peer may send. Sizes in bytes."""

    __pydantic_config__ = STRICT

    header: int = 16 * KIB
    frame: int = 16 * MIB
    """One envelope, header and payloads together."""
    payloads: int = 256
    """Payload frames behind one header."""
    share_from: int = 256 * KIB
    """Payload frames from this size on go through shared memory, where a link has it."""
    shared: int = 1024 * MIB
    """Shared memory that a link's peer may hold at a time, hence also the largest frame there."""
    write_buffer: int = 64 * MIB
    """Bytes that wait to be written on one link; more are refused with `LinkFull`."""
    segment: int = 4 * MIB
    """The text of one context segment."""
    delta_segments: int = 4096
    """Segments that one message may bring."""

    def __post_init__(self) -> None:
        require_positive(self)
        for f in fields(self):
            if getattr(self, f.name) > MOST:
                raise ConfigError(f.name, f"must be at most {MOST} (1 TiB)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySettings:
    """What a process notes of its requests."""

    __pydantic_config__ = STRICT

    enabled: bool = True
    """Without it nothing is measured: accounts, times and spans are empty."""
    sample: float = 0.01
    """The share of traces whose spans are kept, 0 to 1; those that ended with an error always are.
    The trace's id decides, so that processes with the same share keep the same traces."""
    spans: int = 2048
    """The latest spans that are kept here for `agentbus trace`, and until they are exported."""
    export: str = ""
    """Where spans go: a file that gets JSON lines, or the http url of an OTLP collector (extra
    `otel`); empty for nowhere."""

    def __post_init__(self) -> None:
        if not 0 <= self.sample <= 1:
            raise ConfigError("sample", f"must be between 0 and 1, not {self.sample}")
        require_positive(self, or_zero=("sample",))


@dataclass(frozen=True, slots=True, kw_only=True)
class BusSettings:
    """How one process takes part in a bus. Times in seconds."""

    __pydantic_config__ = STRICT

    mailbox: int = 1024
    """Messages that wait for one agent; more are refused with `MailboxFull`."""
    instances: int = 100_000
    """Instances of one agent that has one for each key; more make the longest unused one stop."""
    stream_parts: int = 256
    """Parts of one stream on their way to its reader; whoever writes more waits."""
    delayed: int = 10_000
    """Published messages that wait for their time; more are refused with `MailboxFull`."""
    subscription: int = 1024
    """Messages that wait for one subscriber; more are dropped, the oldest first, and counted."""
    default_deadline: float = 60.0
    """For requests that name none and inherit none."""
    max_hops: int = 64
    """How often a request may cause another before it is refused."""
    connect_timeout: float = 5.0
    rejoin_timeout: float = 60.0
    """How long a process tries to come back to a bus whose home went away without a word, with its
    agents' names and its subscriptions. 0 has it not try."""
    resume_timeout: float = 5.0
    """How long a link whose connection broke is kept, with what is under way on it, until another
    connection goes on with it; the shorter time of its two sides holds. 0 gives it up at once."""
    close_timeout: float = 2.0
    """How long handlers may go on when the bus closes."""
    prefetch: bool = True
    """Have models read the contexts of messages to agents of this process while these wait, or do
    something else first. It gives way to all other work of an engine."""
    busy_poll: float = 100e-6
    """How long the loop stays awake for an answer after a message to another process, at most,
    where that makes answers come sooner. 0 lets it sleep at once: less CPU, slower hops."""
    links: int = 64
    """Links that this process makes to others than its home. For one more, the longest unused is
    closed; while all are in use, the broker carries requests on."""
    idle_link: float = 60.0
    """How long such a link may go without a request before it is closed, to a quarter more; 0 for
    ever. The next request makes another."""
    layout: LayoutSetting = "by_role"
    """How models of this process's agents are shown contexts. `by_role`: roster_first where the
    agent's role stands in the context for all to read, else role_first. `auto`: the layout that is
    predicted to prefill least; `call.reading` says what was predicted for each."""
    filters: tuple[FilterRule, ...] = ()
    """What is made smaller before models read it; nothing, if there are no rules."""
    context_bytes: int = 256 * MIB
    """Context that this process keeps for references, least recently used dropped first."""
    limits: Limits = field(default_factory=Limits)
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)

    def __post_init__(self) -> None:
        require_positive(
            self, or_zero=("busy_poll", "idle_link", "rejoin_timeout", "resume_timeout")
        )
        if self.layout not in _LAYOUTS:
            raise ConfigError("layout", f"must be one of {', '.join(_LAYOUTS)}")
        rules: object = self.filters
        if not (isinstance(rules, tuple) and all(isinstance(one, FilterRule) for one in rules)):
            raise ConfigError("filters", "must be a tuple of FilterRule")
        if len(self.filters) > MAX_FILTER_RULES:
            raise ConfigError("filters", f"must be at most {MAX_FILTER_RULES} rules")
