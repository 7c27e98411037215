"""What a suite is to the command line: a name, the peers that it knows, and how it is run."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .peers import Peer
from .report import Row

__all__ = ["Progress", "RunSuite", "Selection", "Suite", "select"]

Progress = Callable[[str], None]
"""Told in a few words what runs now."""


class RunSuite(Protocol):
    """Measures a suite's cases against the named peers, all of which are installed."""

    def __call__(
        self, peers: Sequence[str], *, quick: bool, progress: Progress
    ) -> Coroutine[Any, Any, list[Row]]:
        """Return the rows of all cases, also of those that have none of the peers."""
        ...


@dataclass(frozen=True, slots=True)
class Suite:
    """A set of cases that are measured in one run."""

    name: str
    peers: tuple[Peer, ...]
    method: str
    """One sentence for the foot of the report."""
    run: RunSuite
    on_data: Callable[[Path], RunSuite] | None = None
    """For a suite that reads recorded data: runs it on that of another folder."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which peers a run measures, and a word on each that it skips."""

    peers: tuple[Peer, ...]
    skipped: tuple[str, ...]


def select(suite: Suite, asked: Sequence[str]) -> Selection:
    """Choose the asked-for peers, or all of the suite's, and skip what is not installed.

    Raises:
        ValueError: the suite knows no peer of a name that was asked for.
    """
    known = {peer.name: peer for peer in suite.peers}
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise ValueError(
            f"the suite {suite.name} has no peer {unknown[0]!r}; it has {', '.join(known)}"
        )
    chosen = [known[name] for name in dict.fromkeys(asked)] or list(suite.peers)
    return Selection(
        peers=tuple(peer for peer in chosen if not peer.missing()),
        skipped=tuple(
            f"skipped {peer.name}: {' and '.join(gone)} not installed; {peer.how_to_install}"
            for peer in chosen
            if (gone := peer.missing())
        ),
    )
