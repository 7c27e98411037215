"""The ways of holding one conversation, and their interleaved replay.

A way replays the recorded conversation hop by hop: same transcript, same decoded token ids. What
was recorded, and what the figures say, is the business of `script` and `account`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from .events import HopEnded, HopResult, HopStarted, HopText, Progress
from .script import Conversation

__all__ = ["WARM_UP", "WARM_UP_TEXT", "OnText", "Way", "replay"]

WARM_UP = "warm-up-"
"""Begins the names under which ways warm up, apart from the salt of what is measured."""
WARM_UP_TEXT = "Is everybody here?"

OnText = Callable[[str], None]


class Way(Protocol):
    """One way of moving and reading the conversation."""

    @property
    def name(self) -> str:
        """The way's name in tables and JSON."""
        ...

    @property
    def transport(self) -> str:
        """What carries its hops, for people."""
        ...

    @property
    def token_log(self) -> Path:
        """The log that its engine writes."""
        ...

    @property
    def tenant(self) -> str:
        """The tenant of its calls in that log."""
        ...

    async def warm_up(self) -> None:
        """Make every connection and let the model compute once, apart from what is measured."""
        ...

    async def hop(self, index: int, on_text: OnText) -> HopResult:
        """Make hop `index` again: the recorded ids are decoded, the text is passed on as it comes.

        Hops are made in order; each one's transcript is the record's, not the replay's.
        """
        ...


async def replay(
    ways: Sequence[Way], conversation: Conversation, progress: Progress
) -> dict[str, list[HopResult]]:
    """Replay the conversation in all ways and return each way's results.

    Hop k of every way is made before hop k+1 of any, and the way that begins changes with k, so
    that a disturbance of the machine hits all ways alike.
    """
    results: dict[str, list[HopResult]] = {way.name: [] for way in ways}
    for hop in conversation.hops:
        first = hop.index % len(ways)
        for way in (*ways[first:], *ways[:first]):
            progress(HopStarted(way.name, hop.index, hop.source, hop.target, way.transport))
            result = await way.hop(hop.index, _teller(progress, way.name, hop.index))
            progress(HopEnded(way.name, hop.index, result))
            results[way.name].append(result)
    return results


def _teller(progress: Progress, way: str, index: int) -> OnText:
    return lambda text: progress(HopText(way, index, text))
