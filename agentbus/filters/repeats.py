"""Tool calls that an agent made again right after their result was shortened.

That its first answer did not serve is a guess: some calls are made again for what has changed
since. So what counts is how often, beside how often it happens anyway (`guard.REPEATS_BORNE`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple

from ..context import Segment, SegmentKind

__all__ = ["SOON", "Repeat", "find_repeats"]

SOON = 3
"""Among so many next calls of the agent, the same one counts as made again."""


class Repeat(NamedTuple):
    """Two places in a context."""

    result: int
    """Of the result that was shortened."""
    call: int
    """Of the call that asks for it again."""


def find_repeats(
    segments: Sequence[Segment], shortened: Container[int], *, start: int = 0
) -> list[Repeat]:
    """Return the calls from `start` on that ask again for one of the results in `shortened`.

    The call is the same if agent and text are. Calls made in a row and the results behind them
    belong together in their order; where there are more or fewer results, which is whose is not
    guessed. Takes time linear in the segments.
    """
    results = _results_of_calls(segments)
    latest: dict[str, list[int]] = {}
    found: list[Repeat] = []
    for place, segment in enumerate(segments):
        if segment.kind is not SegmentKind.TOOL_CALL:
            continue
        before = latest.setdefault(segment.author, [])
        if place >= start:
            same = (one for one in reversed(before) if segments[one] == segment and one in results)
            result = results.get(next(same, -1), place)
            if result < place and result in shortened:
                found.append(Repeat(result, place))
        before.append(place)
        del before[:-SOON]
    return found


def _results_of_calls(segments: Iterable[Segment]) -> dict[int, int]:
    """Return where each call's result stands, by where the call does."""
    found: dict[int, int] = {}
    calls: list[int] = []
    results: list[int] = []
    for place, segment in enumerate(segments):
        if segment.kind is SegmentKind.NOTE:
            continue
        if segment.kind is SegmentKind.TOOL_RESULT:
            results.append(place)
            continue
        if calls and len(calls) == len(results):
            found.update(zip(calls, results, strict=True))
        if results or segment.kind is not SegmentKind.TOOL_CALL:
            calls, results = [], []
        if segment.kind is SegmentKind.TOOL_CALL:
            calls.append(place)
    if len(calls) == len(results):
        found.update(zip(calls, results, strict=True))
    return found
