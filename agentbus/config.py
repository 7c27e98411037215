"""Frozen settings, made at the edge and handed down. Nothing here reads files or environment."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Literal, get_args

from .errors import ConfigError

__all__ = [
    "AclSettings",
    "BusSettings",
    "DaemonSettings",
    "EngineSettings",
    "FilterName",
    "FilterRule",
    "FilteredKind",
    "Keys",
    "LayoutSetting",
    "Limits",
    "LogSettings",
    "Operation",
    "Prices",
    "RuleSettings",
    "TelemetrySettings",
    "TokenSettings",
]

KIB = 1024
MIB = 1024 * KIB
_MOST = 1024 * 1024 * MIB
"""Of any bound; more is a slip, and no system has it."""
_MAX_THREADS = 1024
LayoutSetting = Literal["by_role", "auto", "roster_first", "shared_first", "role_first"]
_LAYOUTS = get_args(LayoutSetting)
_STRICT = {"strict": True, "extra": "forbid"}
"""For settings that are read from files: no value is guessed, no key is passed over."""


def _require_positive(settings: object, or_zero: Collection[str] = ()) -> None:
    for f in fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, f.name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value == 0 and f.name in or_zero:
            continue
        if is_number and not 0 < value < math.inf:
            raise ConfigError(f.name, f"must be greater than 0 and finite, not {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what a peer may send. Sizes in bytes."""

    __pydantic_config__ = _STRICT

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
        _require_positive(self)
        for f in fields(self):
            if getattr(self, f.name) > _MOST:
                raise ConfigError(f.name, f"must be at most {_MOST} (1 TiB)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySettings:
    """What a process notes of its requests."""

    __pydantic_config__ = _STRICT

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
        _require_positive(self, or_zero=("sample",))


FilterName = Literal[
    "lossless", "json", "yaml", "fold", "dedupe", "diff", "strip", "offload", "extract", "mask"
]
FilteredKind = Literal["document", "user", "ask", "message", "summary", "tool_result"]
_FILTERS = get_args(FilterName)
_FILTERED = get_args(FilteredKind)
MAX_FILTER_RULES = 64
MAX_FILTER_NAMES = 64
"""Names of one rule, of each sort."""
MAX_FILTER_NAME = 128
"""Characters of one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterRule:
    """What is made smaller before models of this process's agents read it, and how.

    Of several rules the first that fits holds. In what it does not name it fits all.
    """

    __pydantic_config__ = _STRICT

    use: tuple[FilterName, ...]
    """`lossless` is json, fold, dedupe and diff, of which nothing is lost; nor is it by `yaml`.
    `strip` leaves out colour codes and trailing space, `offload` the middle of large texts,
    `extract` what has least to do with the question, `mask` all results of tools but the last ten,
    once that pays; they say in the text what they left out. Of extract and offload, the first that
    a text is for. None leaves texts as they are."""
    senders: tuple[str, ...] = ()
    """Who wrote it: names of agents, tools, documents, and of topics from which it was taken, with
    `*` for one part between dots and `>` for the rest."""
    readers: tuple[str, ...] = ()
    """Agents whose models read it, likewise."""
    kinds: tuple[FilteredKind, ...] = ()
    """Kinds of segments. Without any, filters that lose something are for documents and tools'
    results alone."""
    keep: float = 0.3
    """The share of a text's tokens that `extract` leaves."""

    def __post_init__(self) -> None:
        for what in ("use", "senders", "readers", "kinds"):
            names: object = getattr(self, what)
            if not isinstance(names, tuple):
                raise ConfigError(what, f"must be a tuple of names, not {names!r:.80}")
        _check_names("use", self.use, _FILTERS)
        _check_names("kinds", self.kinds, _FILTERED)
        _check_patterns("senders", self.senders)
        _check_patterns("readers", self.readers)
        if "mask" in self.use and self.kinds and "tool_result" not in self.kinds:
            raise ConfigError("kinds", "must have tool_result, which is what mask is for")
        if not (isinstance(self.keep, int | float) and 0 < self.keep < 1):
            raise ConfigError("keep", f"must be between 0 and 1, not {self.keep!r:.80}")


def _check_names(what: str, names: tuple[str, ...], known: Collection[str]) -> None:
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(what, f"must be of {', '.join(known)}, not {unknown[0]!r:.80}")
    if len(set(names)) < len(names):
        raise ConfigError(what, "names one twice")


def _check_patterns(what: str, patterns: tuple[str, ...]) -> None:
    if len(patterns) > MAX_FILTER_NAMES or not all(map(_is_pattern, patterns)):
        most = f"must be up to {MAX_FILTER_NAMES} names"
        wild = "`*` stands for one part between dots, `>` at the end for the rest"
        raise ConfigError(what, f"{most}; {wild}")


def _is_pattern(pattern: object) -> bool:
    if not (isinstance(pattern, str) and 0 < len(pattern) <= MAX_FILTER_NAME):
        return False
    *body, last = pattern.split(".")
    return all(part == "*" or not {"*", ">"} & set(part) for part in body) and (
        last in ("*", ">") or not {"*", ">"} & set(last)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BusSettings:
    """How one process takes part in a bus. Times in seconds."""

    __pydantic_config__ = _STRICT

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
        _require_positive(
            self, or_zero=("busy_poll", "idle_link", "rejoin_timeout", "resume_timeout")
        )
        if self.layout not in _LAYOUTS:
            raise ConfigError("layout", f"must be one of {', '.join(_LAYOUTS)}")
        rules: object = self.filters
        if not (isinstance(rules, tuple) and all(isinstance(one, FilterRule) for one in rules)):
            raise ConfigError("filters", "must be a tuple of FilterRule")
        if len(self.filters) > MAX_FILTER_RULES:
            raise ConfigError("filters", f"must be at most {MAX_FILTER_RULES} rules")


_KEY_LENGTH = 40
_Z85 = frozenset(
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The CURVE keys with which one process joins or accepts others over tcp, in Z85.

    Raises:
        ConfigError: a key is not 40 characters of Z85. The key itself is not in the error.
    """

    public: str
    secret: str = field(repr=False)
    server: str = ""
    """Public key of the process to connect to; empty if this one only listens."""
    authorized: Mapping[str, str] = field(default_factory=dict)
    """Public keys that may connect to this process, by their users' names."""
    expires: Mapping[str, float] = field(default_factory=dict)
    """When users' keys end, in seconds since 1970, by their names; the others' do not."""

    def __post_init__(self) -> None:
        given = {"public key": self.public, "secret key": self.secret}
        if self.server:
            given["server's key"] = self.server
        given |= {f"key of {name}": key for name, key in self.authorized.items()}
        for name, key in given.items():
            if len(key) != _KEY_LENGTH or not _Z85.issuperset(key):
                raise ConfigError("keys", f"the {name} is not {_KEY_LENGTH} characters of Z85")
        if len(set(self.authorized.values())) < len(self.authorized):
            raise ConfigError("keys", "two users have the same public key")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What a process logs, and how. Lines go to standard error."""

    __pydantic_config__ = _STRICT

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "warning"


Operation = Literal["request", "publish", "subscribe", "register", "list", "admin", "*"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSettings:
    """One rule of the access policy, as the settings file has it."""

    __pydantic_config__ = _STRICT

    who: tuple[str, ...]
    """Principals: `key:NAME`, `token:NAME`, `uid:NUMBER`, `agent:NAME`, with `*` and `>` as in
    topics; several joined by `+` must all hold; `*` is anyone."""
    allow: tuple[Operation, ...] = ()
    deny: tuple[Operation, ...] = ()
    on: tuple[str, ...]
    """Patterns of agents' names or topics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AclSettings:
    """Who may do what. What no rule allows is denied; a rule that denies wins."""

    __pydantic_config__ = _STRICT

    rules: tuple[RuleSettings, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSettings:
    """One bearer token that a process may join with."""

    __pydantic_config__ = _STRICT

    hash: str
    """BLAKE3 of the token, in hexadecimal."""
    expires: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What 1000 tokens cost, in a unit of your choice: of a prompt, of what of it is reused, and of
    an answer."""

    __pydantic_config__ = _STRICT

    prompt: float = 0.0
    reused: float = 0.0
    answer: float = 0.0

    def __post_init__(self) -> None:
        for name in ("prompt", "reused", "answer"):
            if not 0 <= getattr(self, name) < math.inf:
                problem = f"must be 0 or more and finite, not {getattr(self, name)}"
                raise ConfigError(f"prices.{name}", problem)

    def cost(self, prefilled: int, reused: int, decoded: int) -> float:
        """Return what a model call costs that computed, reused and decoded so many tokens."""
        return (prefilled * self.prompt + reused * self.reused + decoded * self.answer) / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How an engine runs one model."""

    __pydantic_config__ = _STRICT

    dtype: str = "float32"
    """`float32` or `bfloat16`."""
    device: str = "cpu"
    threads: int = 0
    """CPU threads; 0 takes as many as there are cores."""
    kv_tokens: int = 32768
    """Tokens that the KV pool holds."""
    block_size: int = 16
    """Tokens in one KV block."""
    queue: int = 256
    """Requests that wait; more are refused."""
    kv_host_bytes: int = 0
    """Host memory for KV blocks that the pool evicts; 0 for none."""
    kv_disk_bytes: int = 0
    """Disk for KV blocks that host memory has no more room for; 0 for none."""
    kv_dir: str = ""
    """The folder of these, one for each engine; it keeps blocks for the next start."""
    cache_dir: str = ""
    """Where converted weights are kept; empty for the user's cache folder."""
    kv_events: str = ""
    """Where to publish which KV blocks are stored and removed: `ipc://path`, or
    `tcp://127.0.0.1:port`; empty for nowhere."""
    kv_events_replay: str = ""
    """Where to tell it again to those who missed some; goes with `kv_events`."""
    token_log: str = ""
    """A file that gets one JSON line a request with its token ids; empty for none."""
    deliveries: str = ""
    """A file that keeps what filters made of texts for this model, so that its prompts are the same
    after a restart; empty for memory alone."""
    ranker: str = ""
    """What the filter `extract` ranks sentences by: `minilm` (extra `filters`), or empty for their
    words alone (BM25)."""
    prices: Prices = field(default_factory=Prices)

    def __post_init__(self) -> None:
        if self.dtype not in {"float32", "bfloat16"}:
            raise ConfigError("dtype", f"must be float32 or bfloat16, not {self.dtype!r}")
        if not 0 <= self.threads <= _MAX_THREADS:
            problem = f"must be between 0 and {_MAX_THREADS}, not {self.threads}"
            raise ConfigError("threads", problem)
        for name in ("kv_tokens", "block_size", "queue"):
            if getattr(self, name) <= 0:
                raise ConfigError(name, f"must be greater than 0, not {getattr(self, name)}")
        self._check_tiers()
        if self.kv_tokens < self.block_size:
            problem = f"must hold a block of {self.block_size} tokens, not {self.kv_tokens}"
            raise ConfigError("kv_tokens", problem)

    def _check_tiers(self) -> None:
        for name in ("kv_host_bytes", "kv_disk_bytes"):
            if getattr(self, name) < 0:
                raise ConfigError(name, f"must be 0 or more, not {getattr(self, name)}")
        if bool(self.kv_events) != bool(self.kv_events_replay):
            problem = "and kv_events_replay go together: readers that miss some ask again"
            raise ConfigError("kv_events", problem)
        if self.kv_disk_bytes and not self.kv_dir:
            raise ConfigError("kv_dir", "is needed to keep KV blocks on disk")


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonSettings:
    """How a broker or a worker runs. Times in seconds."""

    __pydantic_config__ = _STRICT

    listen: str = ""
    """The broker's url; empty for the socket of this user's daemon."""
    metrics: str = "127.0.0.1:0"
    """`HOST:PORT` where /metrics and /healthz are served, port 0 for a free one; `off` for none."""
    drain_timeout: float = 10.0
    """How long a worker that is told to end goes on with what it has begun."""
    bus: BusSettings = field(default_factory=BusSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    """For each model that a worker serves."""
    log: LogSettings = field(default_factory=LogSettings)
    acl: AclSettings | None = None
    """None lets everyone who can join do all."""
    tokens: Mapping[str, TokenSettings] = field(default_factory=dict)
    """By the names that rules give their holders."""

    def __post_init__(self) -> None:
        _require_positive(self, or_zero=("drain_timeout",))
