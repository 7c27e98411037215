"""Eviction by what the workflow will need next, learned from its past steps only."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

from .policy import Evictable
from .returns import Returns
from .steps import Owner, Step
from .tree import TOKEN_BYTES

__all__ = ["MAX_OWNERS", "WorkflowAware"]

MAX_OWNERS = 4096
"""Owners that are remembered, the least recently seen forgotten first."""

_MOST_HALVINGS = 8
_TAILS = 4
"""Superseded tails of an owner that are watched for whether it goes back to them."""
_PROBE = 8 * TOKEN_BYTES
"""By so much, from a tail's middle on, it is recognised."""
_PRIOR_BACK = 0.25
_PRIOR_TAILS = 4.0
_PRIOR_OF_OWNER = 2.0
"""How many tails of its own an owner needs to count as much as all owners do."""


@dataclass(slots=True)
class _Seen:
    """What is known of an owner."""

    step: Step | None = None
    """How its last call left it; None while one runs."""
    came_back: bool = False
    """Whether it has called again after a reply."""
    tails: list[tuple[int, bytes]] = field(default_factory=list)
    """Where in a prompt to look, and what stood there in one that was superseded."""
    superseded: int = 0
    back: int = 0
    """Of the superseded tails, those that it went back to."""


class WorkflowAware:
    """What is needed latest, and dearest to keep, goes first.

    The order among what is not leased: least worth by predicted next use, then the cheapest to
    recompute (a token costs the more, the further back it stands, and takes the same memory),
    then the least recently used. The prediction knows

    - how the last call left its owner (`Step`): how soon owners come back from such a step is
      learned from all of them, by `Returns`. Owners that have come back from a reply before are
      told from those that have not, many of which have done their work;
    - supersession, as in Continuum: where an owner's next call leaves out the end of its last
      one, the worth of that end is multiplied by the learned chance that the owner goes back to
      it: small for an agent that compacts its context, large for one that alternates prompts.

    Calls whose owner is not told are all alike, and go least recently used first. The grouping
    after kinds with a learned hit density each is that of LHD (Beckmann et al., NSDI 2018).
    """

    def __init__(self) -> None:
        self._returns = {step: Returns() for step in Step}
        self._seen: OrderedDict[Owner, _Seen] = OrderedDict()
        self._superseded = 0
        self._back = 0

    def group(self, candidate: Evictable) -> Hashable:
        """Return what the worth depends on besides age."""
        return candidate.step, candidate.halvings

    def rank(self, candidate: Evictable) -> float:
        """Return when the candidate was last used."""
        return candidate.last_used

    def worth(self, candidate: Evictable, now: int) -> tuple[float, ...]:
        """Return the expected uses per call of keeping, in quarter octaves, and a token's cost."""
        age = now - candidate.last_used
        uses = self._returns[candidate.step].worth(age, now)
        return math.floor(4 * math.log2(uses)) / 4 - candidate.halvings, candidate.end

    def called(self, owner: Owner, tokens: bytes, now: int) -> None:
        """Learn how long an owner took to call again, and whether it went back to a tail."""
        seen = self._of(owner)
        if seen.step is not None:
            self._returns[seen.step].come(owner, now)
            seen.came_back = seen.came_back or seen.step is Step.FIRST_REPLY
            seen.step = None
        watched = len(seen.tails)
        seen.tails = [(at, tail) for at, tail in seen.tails if tokens[at : at + len(tail)] != tail]
        back = watched - len(seen.tails)
        seen.back += back
        self._back += back

    def superseded(self, owner: Owner, start: int, tokens: bytes) -> int:
        """Watch a tail from now on, and return how little it is worth by what was learned."""
        seen = self._of(owner)
        middle = len(tokens) // TOKEN_BYTES // 2 * TOKEN_BYTES
        tail = (start * TOKEN_BYTES + middle, tokens[middle : middle + _PROBE])
        seen.tails = [*seen.tails, tail][-_TAILS:]
        seen.superseded += 1
        self._superseded += 1
        of_all = (self._back + _PRIOR_BACK) / (self._superseded + _PRIOR_TAILS)
        chance = (seen.back + _PRIOR_OF_OWNER * of_all) / (seen.superseded + _PRIOR_OF_OWNER)
        return min(_MOST_HALVINGS, max(0, round(-math.log2(chance))))

    def left(self, owner: Owner, step: Step, now: int) -> Step:
        """Begin to wait for an owner's next call. Tells an owner's first reply from later ones."""
        seen = self._of(owner)
        if seen.step is not None:  # of two calls at once, the one that ended before
            self._returns[seen.step].forget(owner)
        if step is Step.REPLY and not seen.came_back:
            step = Step.FIRST_REPLY
        seen.step = step
        self._returns[step].wait(owner, now)
        return step

    def _of(self, owner: Owner) -> _Seen:
        seen = self._seen.setdefault(owner, _Seen())
        self._seen.move_to_end(owner)
        if len(self._seen) > MAX_OWNERS:
            gone, forgotten = self._seen.popitem(last=False)
            if forgotten.step is not None:
                self._returns[forgotten.step].forget(gone)
        return seen
