"""What a run tells whoever watches it: plain values, no terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Event", "HopEnded", "HopResult", "HopStarted", "HopText", "Leg", "Progress"]


@dataclass(frozen=True, slots=True)
class Leg:
    """One request on one link. Bytes are headers and bodies, without chunk frames and TCP."""

    link: str
    sent_bytes: int
    received_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HopResult:
    """What one hop of one way did and cost. Times in seconds, from the orchestrator's view.

    `ttft_s` runs from the moment the orchestrator begins to send until it sees the first text.
    """

    text: str
    legs: tuple[Leg, ...]
    prompt_tokens: int
    reused: int
    prefilled: int
    decoded: int
    ttft_s: float
    wall_s: float

    @property
    def sent_bytes(self) -> int:
        """Bytes of the requests of all legs."""
        return sum(leg.sent_bytes for leg in self.legs)

    @property
    def received_bytes(self) -> int:
        """Bytes of the answers of all legs."""
        return sum(leg.received_bytes for leg in self.legs)


@dataclass(frozen=True, slots=True)
class HopStarted:
    """A hop of the way `way` begins."""

    way: str
    index: int
    source: str
    target: str
    transport: str


@dataclass(frozen=True, slots=True)
class HopText:
    """Text has come. It is the next part, not the whole."""

    way: str
    index: int
    text: str


@dataclass(frozen=True, slots=True)
class HopEnded:
    """The hop is done."""

    way: str
    index: int
    result: HopResult


Event = HopStarted | HopText | HopEnded
Progress = Callable[[Event], None]
