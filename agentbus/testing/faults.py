"""What can go wrong between two processes, as values: what, which way, when, for how long.

A link is an ordered stream of bytes, so that nothing within it comes in another order, and nothing
of it is lost without the link: those would be other transports. Between *links* all of that happens:
what goes over one may overtake what goes over another (give them other delays), and what was on its
way when a link was cut is gone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ..errors import ConfigError

__all__ = ["Direction", "Fault", "FaultKind", "random_faults"]


class Direction(StrEnum):
    """Which way bytes go."""

    TO_LISTENER = "to_listener"
    """From who connected to who listens."""
    FROM_LISTENER = "from_listener"


class FaultKind(StrEnum):
    """What goes wrong."""

    DELAY = "delay"
    """From here on, all that goes this way comes later, in order."""
    CUT = "cut"
    """The connection is lost for both ends, with what is on its way."""
    HALF_OPEN = "half_open"
    """From here on, what goes this way vanishes, and nobody is told: until a cut."""
    STALL = "stall"
    """From here on nothing is read that goes this way, so that its sender's buffers fill."""
    CORRUPT = "corrupt"
    """A byte arrives as another one."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of one connection, once `after_bytes` more bytes went its way.

    Raises:
        ConfigError: a number is negative.
    """

    kind: FaultKind
    direction: Direction = Direction.TO_LISTENER
    after_bytes: int = 0
    """So that it may come in the middle of a frame, always of the same one."""
    seconds: float = 0.0
    """How much later what is delayed comes; after which time a stall is over, 0 for never."""

    def __post_init__(self) -> None:
        if self.after_bytes < 0 or self.seconds < 0:
            raise ConfigError("fault", f"its numbers must not be negative: {self}")


def random_faults(
    seed: int,
    *,
    kinds: Sequence[FaultKind] = tuple(FaultKind),
    most_bytes: int = 4096,
    most_seconds: float = 0.1,
) -> Iterator[Fault]:
    """Return faults without end, all kinds in turn. The same seed gives the same ones."""
    rng = random.Random(seed)
    while True:
        for kind in kinds:
            direction = rng.choice(list(Direction))
            after = rng.randrange(most_bytes + 1)
            yield Fault(kind, direction, after, round(rng.uniform(0, most_seconds), 4))
