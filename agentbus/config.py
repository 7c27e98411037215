"""Frozen settings, made at the edge and handed down. Nothing here reads files or environment."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, fields

from .errors import ConfigError

__all__ = ["BusSettings", "EngineSettings", "Limits"]

KIB = 1024
MIB = 1024 * KIB
_MAX_THREADS = 1024


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BusSettings:
    """How one process takes part in a bus. Times in seconds."""

    mailbox: int = 1024
    """Messages that wait for one agent; more are refused with `MailboxFull`."""
    stream_parts: int = 4096
    """Parts of one stream that wait for its reader; more end it with `StreamOverflow`."""
    subscription: int = 1024
    """Messages that wait for one subscriber; more are dropped, the oldest first, and counted."""
    default_deadline: float = 60.0
    """For requests that name none and inherit none."""
    max_hops: int = 64
    """How often a request may cause another before it is refused."""
    connect_timeout: float = 5.0
    close_timeout: float = 2.0
    """How long handlers may go on when the bus closes."""
    busy_poll: float = 100e-6
    """How long the loop stays awake for an answer after a message to another process, at most; it
    gives that up where answers take longer. 0 lets it sleep at once: less CPU, slower hops."""
    context_bytes: int = 256 * MIB
    """Context that this process keeps for references, least recently used dropped first."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        _require_positive(self, or_zero=("busy_poll",))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How an engine runs one model."""

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
    cache_dir: str = ""
    """Where converted weights are kept; empty for the user's cache folder."""
    token_log: str = ""
    """A file that gets one JSON line a request with its token ids; empty for none."""

    def __post_init__(self) -> None:
        if self.dtype not in {"float32", "bfloat16"}:
            raise ConfigError("dtype", f"must be float32 or bfloat16, not {self.dtype!r}")
        if not 0 <= self.threads <= _MAX_THREADS:
            problem = f"must be between 0 and {_MAX_THREADS}, not {self.threads}"
            raise ConfigError("threads", problem)
        for name in ("kv_tokens", "block_size", "queue"):
            if getattr(self, name) <= 0:
                raise ConfigError(name, f"must be greater than 0, not {getattr(self, name)}")
        if self.kv_tokens < self.block_size:
            problem = f"must hold a block of {self.block_size} tokens, not {self.kv_tokens}"
            raise ConfigError("kv_tokens", problem)
