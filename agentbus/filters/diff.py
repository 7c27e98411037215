"""A text that is a new version of an earlier piece, as what changed in it; byte-exact.

    ["import pygame" again, except:]
    [line 14 now:]
    retries = 5
    [lines 90-92 gone]
    [after line 100:]
    print("done")

Lines are counted in the piece as it stands in the receiver's prompt, as in `dedupe`. What is kept
stands written out there: no line that looks like a mark is kept. Lines that both have once are
paired where they stand in the same order (Bram Cohen's patience diff), and pairs extended to the
equal lines around them. Content that looks like a mark has `[quoted] ` before it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ..context.earlier import ALONE, LONGEST, UNQUOTABLE, Earlier, is_mark, quote, run_keys, unquote
from ..context.piece_names import NAME
from ..errors import FormBroken

__all__ = ["KEPT_CHARACTERS", "Diff"]

KEPT_CHARACTERS = 20
"""Lines between two changes are kept if they are at least so long; else they are written again,
which is shorter than to begin another change."""

_NAME = "diff/1"
_NUMBER = "([1-9][0-9]{0,8})"
_HEAD = re.compile(rf"\[({NAME}) again(, except:)?\]")
_CHANGE = re.compile(rf"\[lines? {_NUMBER}(?:-{_NUMBER})? (now:|gone)\]")
_AFTER = re.compile(rf"\[(?:after line {_NUMBER}|before line 1):\]")


@dataclass(frozen=True, slots=True)
class _Block:
    """Lines that both have: the index of the first in the text and in the piece, how many."""

    here: int
    there: int
    length: int


class Diff:
    """The form `diff/1`."""

    name = _NAME
    exact: Literal["bytes"] = "bytes"

    def write(self, text: str, earlier: Earlier) -> str | None:
        """Return what changed since the piece that the text shares most with; None if not shorter.

        Takes time linear in the text and that piece, but for a logarithm.
        """
        if len(text) > LONGEST:
            return None
        lines = text.removesuffix("\n").split("\n")
        numbers = earlier.number(lines)
        base = _base(lines, numbers, earlier)
        if not base:
            return None
        there = earlier.numbers_of(base)
        blocks = [
            block
            for block in _common(numbers, there)
            if sum(map(len, _of(lines, block))) + block.length >= KEPT_CHARACTERS
        ]
        edits = list(_edits(lines, blocks, len(there)))
        head = f"[{earlier.name(base)} again{', except:' if edits else ''}]"
        written = "\n".join([head, *edits])
        if text.endswith("\n"):
            written += "\n"
        elif written.endswith("\n"):
            return None  # an empty line of the last change would read as the text's end
        return written if len(written) < len(text) else None

    def read(self, written: str, earlier: Earlier) -> str:
        """Return the text. `earlier` is what `write` was given.

        Raises:
            FormBroken: `write` does not write this, or it refers to what the receiver has not.
        """
        head, *edits = written.removesuffix("\n").split("\n")
        found = _HEAD.fullmatch(head)
        if not found or bool(found[2]) != bool(edits):
            raise FormBroken(_NAME, "it names no piece first")
        text = _Reader(earlier.find(found[1]), earlier).read(edits)
        return text + "\n" if written.endswith("\n") else text

    def is_same(self, text: str, read: str) -> bool:
        """See `Form.is_same`."""
        return text == read


def _base(lines: Sequence[str], numbers: Sequence[int], earlier: Earlier) -> int:
    """Return the piece that has the most runs of the text's lines, the earliest of several; or 0."""
    keys = run_keys(numbers)
    keys += (number for line, number in zip(lines, numbers, strict=True) if len(line) >= ALONE)
    known = earlier.known(set(keys))
    votes = Counter[int]()
    for key, count in Counter(filter(known.__contains__, keys)).items():
        for piece in {piece for piece, _ in earlier.places(key)}:
            votes[piece] += count
    return min(votes, key=lambda piece: (-votes[piece], piece), default=0)


def _of(lines: Sequence[str], block: _Block) -> Sequence[str]:
    return lines[block.here : block.here + block.length]


def _common(here: Sequence[int], there: Sequence[int]) -> Iterator[_Block]:
    """Yield what both have, in order: pairs of lines that each has once, and equal lines around."""
    here_end = there_end = 0
    for at, base in _pairs(here, there):
        if at < here_end:
            continue
        back = _equal(here, there, range(1, min(at - here_end, base - there_end) + 1), at, base, -1)
        length = _equal(here, there, range(min(len(here) - at, len(there) - base)), at, base, 1)
        yield _Block(at - back, base - back, back + length)
        here_end, there_end = at + length, base + length


def _equal(
    here: Sequence[int], there: Sequence[int], steps: range, at: int, base: int, way: int
) -> int:
    """Count the steps from a pair, forward or back, over which lines are equal."""
    for count, step in enumerate(steps):
        number = here[at + way * step]
        if number != there[base + way * step] or number == UNQUOTABLE:
            return count
    return len(steps)


def _pairs(here: Sequence[int], there: Sequence[int]) -> list[tuple[int, int]]:
    """Return the places of lines that each has once: the most that stand in the same order."""
    once, base_once = Counter(here), Counter(there)
    places = {number: place for place, number in enumerate(there)}
    pairs = [
        (place, places[number])
        for place, number in enumerate(here)
        if number != UNQUOTABLE and once[number] == 1 and base_once[number] == 1
    ]
    return _longest_rising(pairs)


def _longest_rising(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the longest subsequence of pairs whose second members rise (patience sorting)."""
    tops: list[int] = []
    last_of: list[int] = []
    before: list[int] = []
    for index, (_, place) in enumerate(pairs):
        pile = bisect_left(tops, place)
        before.append(last_of[pile - 1] if pile else -1)
        if pile == len(tops):
            tops.append(place)
            last_of.append(index)
        else:
            tops[pile], last_of[pile] = place, index
    chosen = []
    index = last_of[-1] if last_of else -1
    while index >= 0:
        chosen.append(pairs[index])
        index = before[index]
    return chosen[::-1]


def _edits(lines: Sequence[str], blocks: Iterable[_Block], size: int) -> Iterator[str]:
    """Yield the lines of all changes between blocks; `size` counts the piece's lines."""
    here = there = 0
    for block in (*blocks, _Block(len(lines), size, 0)):
        if block.here > here or block.there > there:
            yield _change(there, block.there, "now:" if block.here > here else "gone")
            yield from map(quote, lines[here : block.here])
        here, there = block.here + block.length, block.there + block.length


def _change(start: int, end: int, what: str) -> str:
    """Write the head of a change of the lines from index `start` to before `end`."""
    if end == start:
        return f"[after line {start}:]" if start else "[before line 1:]"
    return f"[lines {start + 1}-{end} {what}]" if end > start + 1 else f"[line {end} {what}]"


class _Reader:
    """The piece that is changed, and the text that comes of it."""

    def __init__(self, base: int, earlier: Earlier) -> None:
        self._earlier = earlier
        self._there = earlier.numbers_of(base)
        if not self._there:
            raise FormBroken(_NAME, "it refers to a piece that is not there")
        self._next = 0
        self._begun = False
        self._lines: list[str] = []
        self._size = -1

    def read(self, edits: Sequence[str]) -> str:
        open_for = -1
        """How many lines the change under way has so far; -1 where it can have none."""
        for line in edits:
            content = unquote(line)
            if content is not line or not is_mark(line):
                if open_for < 0:
                    raise FormBroken(_NAME, "lines stand outside of a change")
                self._add(content)
                open_for += 1
            elif open_for == 0:
                raise FormBroken(_NAME, "a change has no lines")
            else:
                open_for = 0 if self._begin(line) else -1
        if open_for == 0:
            raise FormBroken(_NAME, "a change has no lines")
        self._keep(len(self._there))
        return "\n".join(self._lines)

    def _begin(self, head: str) -> bool:
        """Begin a change: keep the lines before it; return whether lines follow."""
        change, after = _CHANGE.fullmatch(head), _AFTER.fullmatch(head)
        if change:
            start, end, what = int(change[1]) - 1, int(change[2] or change[1]), change[3]
        elif after:
            start = end = int(after[1] or 0)
            what = "now:"
        else:
            raise FormBroken(_NAME, "a mark is not one of a change")
        if (self._begun and start <= self._next) or _change(start, end, what) != head:
            raise FormBroken(_NAME, "a change is not written as changes are")
        self._keep(start)
        self._next, self._begun = end, True
        if end > len(self._there):
            raise FormBroken(_NAME, "a change is behind the piece's end")
        return what == "now:"

    def _keep(self, end: int) -> None:
        for number in self._there[self._next : end]:
            if number == UNQUOTABLE:
                raise FormBroken(_NAME, "a mark would be kept")
            self._add(self._earlier.line(number))

    def _add(self, line: str) -> None:
        self._size += len(line) + 1
        if self._size > LONGEST:
            raise FormBroken(_NAME, f"it stands for more than {LONGEST} characters")
        self._lines.append(line)
