"""Large texts without their middle; what is left out is had by reference.

    first line
    [lines 2-180 left out here; the source is intact: get ctx:ab12cd34 lines=2-180; line 52 class Foo]
    ERROR: cannot open the file
    [lines 182-960 left out here; the source is intact: get ctx:ab12cd34 lines=182-960]
    last line

Shown are the first lines and the last, those that must be kept (see `keep`), and all of a text of
which too little could be left out. Of lines that are too long, characters are left out, at the bounds
of words; only a word of more than `_WORD` characters is cut. Content that looks like a mark has
`[quoted] ` before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import chain
from typing import Final

from .keep import failures, must_keep
from .landmarks import Landmarks
from .left_out import MAX_LINES, characters_mark, lines_mark, merged, quoted
from .lossy import Shortened

__all__ = ["END_LINES", "END_TOKENS", "LARGE_CHARACTERS", "LARGE_TOKENS", "LEAST_SHARE", "Offload"]

LARGE_TOKENS: Final = 2000
LARGE_CHARACTERS: Final = 1000
"""A text of no more tokens, or no more characters, is delivered whole."""
END_LINES: Final = 20
END_TOKENS: Final = 400
"""At either end so many lines are shown, of about so many tokens at most."""
LEAST_SHARE: Final = 0.25
"""Of a text's characters so many are left out, or none: a text most of which must be kept is
delivered whole."""

_SAMPLE: Final = 1 << 16
"""Characters by whose tokens a text is judged; a longer one is large."""
_MAX_ROOM: Final = 20 * END_TOKENS
"""Characters of either end, however few tokens they are."""
_LONG: Final = 3
"""A line is too long if it takes so many times the room of an end."""
_LEAST_GAP: Final = 400
"""Characters that are left out under one mark; fewer are shown."""
_MAX_GAPS: Final = 300
"""Marks; where there could be more, the smallest gaps are shown."""
_WORTH: Final = 2
"""What a gap has at least so many times the tokens of its mark."""
_PROBE: Final = 2000
"""Characters of a gap that are counted."""
_WORD: Final = 200
"""Characters within which a word is to end."""
_SEPARATORS: Final = (re.compile(r"[\s\[\]{}()<>;|&。、，；]"), re.compile(","))
"""What ends words; a comma, which may stand in a number, only where there is nothing else."""


@dataclass(frozen=True, slots=True)
class _Gap:
    """What can be left out: whole lines, or a part of one."""

    start: int
    end: int
    """The place in the text of its first character, and of what follows it."""
    first: int
    last: int
    """Its lines, counted from 1."""
    within: int = -1
    """How many characters of its line stand before it; negative if its lines are whole."""


class Offload:
    """The filter `offload/1`: it leaves out the same whatever is asked."""

    name = "offload/1"

    def shorten(
        self, text: str, *, ref: str, query: str, count: Callable[[str], int]
    ) -> Shortened | None:
        """See `Lossy.shorten`. However long the text is, only a bounded part of it is counted."""
        if len(text) <= LARGE_CHARACTERS or text.count("\n") >= MAX_LINES:
            return None
        tokens = count(text[:_SAMPLE])
        if len(text) <= _SAMPLE and tokens <= LARGE_TOKENS:
            return None
        lines = text.split("\n")
        room = min(END_TOKENS * min(len(text), _SAMPLE) // max(tokens, 1), _MAX_ROOM)
        gaps = nlargest(_MAX_GAPS, _gaps(lines, room), key=lambda gap: gap.end - gap.start)
        landmarks = Landmarks(text, lines)
        marked: list[tuple[_Gap, str]] = []
        saved = 0
        for gap in sorted(gaps, key=lambda gap: gap.start):
            mark = _mark(gap, ref, landmarks)
            here = count(text[gap.start : min(gap.end, gap.start + _PROBE)])
            there = count(mark)
            if here >= _WORTH * there:
                marked.append((gap, mark))
                saved += here - there
        if sum(gap.end - gap.start for gap, _ in marked) < LEAST_SHARE * len(text):
            return None
        written, added = _written(text, marked)
        fewer = count(written) < tokens if len(text) <= _SAMPLE else saved > added
        left_out = merged((gap.first, gap.last) for gap, _ in marked)
        return Shortened(written, left_out) if fewer else None


def _gaps(lines: Sequence[str], room: int) -> Iterator[_Gap]:
    """Yield what need not be shown of a text, if either end takes some room, in characters."""
    kept = must_keep(lines)
    head, tail = _fitting(lines, room), _fitting(reversed(lines), room)
    start = place = 0
    first = 1
    for number, line in enumerate(lines, 1):
        behind = place + len(line)
        if kept[number - 1] or number <= head or number > len(lines) - tail:
            if place - start > _LEAST_GAP:
                yield _Gap(start, place - 1, first, number - 1)
            for begin, end in _cuts(line, room):
                yield _Gap(place + begin, place + end, number, number, begin)
            start, first = behind + 1, number + 1
        place = behind + 1


def _fitting(lines: Iterable[str], room: int) -> int:
    """Count the lines that are shown at an end: there is more on them than blanks."""
    characters = 0
    for number, line in enumerate(lines):
        if number == END_LINES or (characters and characters + len(line) > room):
            return number
        characters += len(line)
    return END_LINES


def _cuts(line: str, room: int) -> Iterator[tuple[int, int]]:
    """Yield what need not be shown of a line: the place where it begins, and of what follows."""
    if len(line) <= _LONG * room:
        return
    shown, tail = room, len(line) - room
    for begin, end in chain(failures(line), [(tail, tail)]):
        if min(begin, tail) - shown > _LEAST_GAP:
            start = _behind_word(line, shown - 1, shown + _WORD, last=False) or shown
            stop = min(begin, tail)
            stop = _behind_word(line, stop - _WORD, stop, last=True) or stop
            if stop - start >= _LEAST_GAP:
                yield start, stop
        shown = max(shown, end)


def _behind_word(line: str, low: int, high: int, *, last: bool) -> int | None:
    """Return the place behind the first end of a word in a stretch, or the last one."""
    for separator in _SEPARATORS:
        places = [found.end() for found in separator.finditer(line, low, high)]
        if places:
            return places[-1 if last else 0]
    return None


def _mark(gap: _Gap, ref: str, landmarks: Landmarks) -> str:
    if gap.within < 0:
        there = landmarks.in_lines(gap.first, gap.last)
        return lines_mark(gap.first, gap.last, ref, there)
    first, last = gap.within + 1, gap.within + gap.end - gap.start
    there = landmarks.in_characters(gap.first, first, last)
    return characters_mark(gap.first, first, last, ref, there)


def _written(text: str, marked: Sequence[tuple[_Gap, str]]) -> tuple[str, int]:
    """Return a text with marks in the place of gaps, and how many characters quoting it added."""
    parts: list[str] = []
    added = place = 0
    for gap, mark in marked:
        shown = text[place : gap.start]
        parts += [_quoted(shown), mark if gap.within < 0 else f"\n{mark}\n"]
        added += len(parts[-2]) - len(shown)
        place = gap.end
    parts.append(_quoted(text[place:]))
    return "".join(parts), added + len(parts[-1]) - (len(text) - place)


def _quoted(shown: str) -> str:
    return "\n".join(map(quoted, shown.split("\n")))
