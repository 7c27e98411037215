"""How a broker or a worker runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .access import AclSettings, TokenSettings
from .bus import BusSettings
from .checks import STRICT, require_positive
from .engine import EngineSettings

__all__ = [
    "DaemonSettings",
    "LogSettings",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What a process logs, and how. Lines go to standard error."""

    __pydantic_config__ = STRICT

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonSettings:
    """How a broker or a worker runs. Times in seconds."""

    __pydantic_config__ = STRICT

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
        require_positive(self, or_zero=("drain_timeout",))
