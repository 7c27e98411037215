"""Which cached tokens go first when KV blocks run out.

A policy only ranks; it sees no blocks and frees nothing. That leased tokens stay, and that a
prefix outlives what continues it, is the index's business. The shape follows SGLang's eviction
policies: one tiny class each. `workflow` has the one that is used if nothing else is asked for.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from .steps import Owner, Step

__all__ = ["LRU", "Evictable", "EvictionPolicy"]


class Evictable(Protocol):
    """What a policy may know of a run of cached tokens."""

    @property
    def last_used(self) -> int:
        """When the last lease on it ended, on the index's logical clock."""
        ...

    @property
    def length(self) -> int:
        """How many tokens it holds."""
        ...

    @property
    def end(self) -> int:
        """The position behind its last token."""
        ...

    @property
    def step(self) -> Step:
        """How the last call that used it left its owner."""
        ...

    @property
    def halvings(self) -> int:
        """What `superseded` said when its owner's next call went another way; else 0."""
        ...


class EvictionPolicy(Protocol):
    """Ranks runs of cached tokens for eviction.

    Candidates of one group keep their order for as long as they wait; how groups compare may
    change as time goes. So only the first of each group is judged anew when blocks are needed.
    """

    def group(self, candidate: Evictable) -> Hashable:
        """Return a candidate's group, which must depend on nothing but the candidate."""
        ...

    def rank(self, candidate: Evictable) -> float:
        """Return a candidate's place in its group; the smallest goes first.

        It is asked once each time a candidate comes free, and must not depend on anything else.
        """
        ...

    def worth(self, candidate: Evictable, now: int) -> tuple[float, ...]:
        """Return what keeping a candidate is worth now; of all groups' first the least goes."""
        ...

    def called(self, owner: Owner, tokens: bytes, now: int) -> None:
        """Learn that an owner makes a call, with these packed tokens."""
        ...

    def superseded(self, owner: Owner, start: int, tokens: bytes) -> int:
        """Learn that an owner's call left out what its last one had from position `start` on.

        Returns how often the worth of these tokens is to be halved.
        """
        ...

    def left(self, owner: Owner, step: Step, now: int) -> Step:
        """Learn that an owner's call has ended, and return the step that it left the owner in."""
        ...


class LRU:
    """Least recently used first."""

    def group(self, candidate: Evictable) -> Hashable:
        """Return the one group that there is."""
        del candidate
        return None

    def rank(self, candidate: Evictable) -> float:
        """Return when the candidate was last used."""
        return candidate.last_used

    def worth(self, candidate: Evictable, now: int) -> tuple[float, ...]:
        """Return nothing: there is nothing to compare."""
        del candidate, now
        return ()

    def called(self, owner: Owner, tokens: bytes, now: int) -> None:
        """Learn nothing."""

    def superseded(self, owner: Owner, start: int, tokens: bytes) -> int:
        """Return 0: what was superseded is as old as it is."""
        del owner, start, tokens
        return 0

    def left(self, owner: Owner, step: Step, now: int) -> Step:
        """Return the step as it is told."""
        del owner, now
        return step
