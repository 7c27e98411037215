"""Old tool results give way to a mark, in one batch: an epoch of what is delivered.

Agents look at what tools said last; leaving out all results but the latest ten solved as many
tasks for half the price (Lindenbauer et al., The Complexity Trap: Simple Observation Masking Is as
Efficient as LLM Summarization for Agent Context Management, 2025). But it changes what stands in
the prompt already, and all behind the first mark is computed again. So results are not left out one
by one as they grow old, but all at once, when that pays (`worth`), or when nothing is held anyway.
Between two epochs prompts only grow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from ..context import Segment, SegmentKind
from ..errors import MisuseError
from .worth import Change, Worth

__all__ = ["KEPT_RESULTS", "MASK", "Masking", "Standing", "mask_of", "mask_results"]

KEPT_RESULTS = 10
"""The latest tool results, which stay."""
MASK = "mask/1"
"""This filter's name and version, such as in a guard's ledger, where an epoch is one delivery."""

_NAME = re.compile(r"[A-Za-z0-9_./:-]{1,64}")


@dataclass(frozen=True, slots=True)
class Standing:
    """A piece of a prompt as it stands there now."""

    tokens: int
    """Of its text."""
    markup: int = 0
    """Tokens around that, which stay whatever the text is."""
    segment: Segment | None = None
    """What it was delivered for; None for what is no segment, such as an introduction."""
    masked: bool = False
    """A mark stands there already."""
    refers: Collection[int] = ()
    """The places of the pieces that its marks of dedupe and diff refer to."""


@dataclass(frozen=True, slots=True)
class Masking:
    """What a new epoch leaves out, and whether it is to begin."""

    marks: Mapping[int, str]
    """What is delivered in the place of pieces, by their places; none if it does not pay."""
    worth: Worth
    change: Change
    """What was weighed."""


def mask_of(result: Segment, ref: str) -> str:
    """Return the mark that is delivered in the place of a tool's result; `ref` is its name."""
    name = result.author if _NAME.fullmatch(result.author) else "a tool"
    lines = result.text.count("\n") + 1
    noun = "line" if lines == 1 else "lines"
    return f"[result of {name}, {lines} {noun}, left out here; the source is intact: get {ref}]"


def mask_results(
    pieces: Sequence[Standing],
    held: int,
    *,
    refer: Callable[[Segment], str],
    must_stay: Callable[[str], bool],
    count: Callable[[str], int],
    weigh: Callable[[Change], Worth],
    keep: int = KEPT_RESULTS,
) -> Masking:
    """Return the marks for all results but the last `keep`, if a new epoch pays.

    A result stays if it must, if its mark would be no shorter, or if something that stays refers to
    it: what is not masked is delivered in the new epoch as it was before. `count` and `must_stay`
    are asked about each old result, each time: they should remember what they found.

    Args:
        pieces: the prompt, in the order in which it is read.
        held: tokens of it that are in the cache, from its beginning.
        refer: names a result, such as `ctx:ab12cd34`.
        must_stay: whether the text of a result has what is never left out, such as an error.
        count: tokens of a text, by the receiver's tokenizer.
        weigh: `weigh` with an engine's costs and with what was missed since the last epoch.
    """
    if keep < 0:
        raise MisuseError(f"0 results or more are kept, not {keep}")
    marks: dict[int, str] = {}
    saved: dict[int, int] = {}
    for place, result in _old_results(pieces, keep):
        mark = mask_of(result, refer(result))
        fewer = pieces[place].tokens - count(mark)
        if fewer > 0 and not must_stay(result.text):
            marks[place], saved[place] = mark, fewer
    masked = _unreferred(pieces, set(marks))
    change = _change(pieces, {place: saved[place] for place in masked}, held)
    worth = weigh(change)
    return Masking({place: marks[place] for place in masked} if worth.pays else {}, worth, change)


def _old_results(pieces: Sequence[Standing], keep: int) -> list[tuple[int, Segment]]:
    """Return all results but the last `keep` that no mark stands for yet, with their places."""
    results = [
        (place, piece.segment)
        for place, piece in enumerate(pieces)
        if piece.segment is not None and piece.segment.kind is SegmentKind.TOOL_RESULT
    ]
    old = results[: max(0, len(results) - keep)]
    return [(place, result) for place, result in old if not pieces[place].masked]


def _unreferred(pieces: Sequence[Standing], masked: set[int]) -> list[int]:
    """Return, in order, those of `masked` that nothing that stays refers to.

    References lead backwards only, so one walk from the end sees who stays before whom it needs.
    """
    needed: set[int] = set()
    for place in range(len(pieces) - 1, -1, -1):
        if place not in masked or place in needed:
            needed.update(pieces[place].refers)
    return sorted(masked - needed)


def _change(pieces: Sequence[Standing], saved: Mapping[int, int], held: int) -> Change:
    sizes = [piece.tokens + piece.markup for piece in pieces]
    first = min(saved, default=len(pieces))
    before, behind = sum(sizes[:first]), sum(sizes[first:])
    return Change(
        before=before,
        behind=behind,
        saved=sum(saved.values()),
        held=min(held, before + behind),
    )
