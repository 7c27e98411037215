"""Lines that a receiver was given before are not given again; byte-exact.

A run of lines that stands in an earlier piece, or earlier in the same text, becomes one line:

    [lines 41-180 of "import pygame" again]
    [lines 3-9, 14 of ..."retries = 5"; 2-40 of this text again]
    [lines 41-180 of "import pygame" again, each after +]

The last is of a patch that adds what was given before. Runs are found by an index of three lines on
end (and of long lines alone), the longest first, among equals the earliest; from the start of the
text, without looking back, as LZ77 does. A mark covers only what stands written out, so a run never
leads through another mark. Content that looks like a mark has `[quoted] ` before it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, groupby
from typing import Literal

from ..context.earlier import (
    ALONE,
    ANY_MARK,
    LONGEST,
    PLACES,
    RUN_LINES,
    UNQUOTABLE,
    Earlier,
    is_mark,
    quote,
    run_key,
    run_keys,
    unquote,
)
from ..context.piece_names import NAME
from ..errors import FormBroken

__all__ = ["RUN_CHARACTERS", "Dedupe"]

RUN_CHARACTERS = 40
"""A run of lines is at least so long, and longer than what refers to it; all runs of one mark are
together at least `ALONE`, and longer than the mark."""

_NAME = "dedupe/1"
_ITSELF = "this text"
_OF = " of "
_PLUS = "+"
_AFTER_PLUS = ", each after +"
_SOURCE = re.compile(rf"({_ITSELF}|{NAME})(?:; | again(?:{re.escape(_AFTER_PLUS)})?\]\Z)")
_LINES = re.compile(r"([1-9][0-9]{0,8})(?:-([1-9][0-9]{0,8}))?")


@dataclass(frozen=True, slots=True)
class _Run:
    """Lines that stand in a piece: that piece's number, the index of the first, how many."""

    piece: int
    start: int
    length: int
    before: str
    """What stands before each of them here, and not there."""


class Dedupe:
    """The form `dedupe/1`."""

    name = _NAME
    exact: Literal["bytes"] = "bytes"

    def write(self, text: str, earlier: Earlier) -> str | None:
        """Return the text with marks for what the receiver was given before; None if there is nothing.

        The result is shorter than the text. Takes time linear in it.
        """
        if len(text) > LONGEST:
            return None
        written = _Writer(text.split("\n"), earlier).write()
        return written if len(written) < len(text) else None

    def read(self, written: str, earlier: Earlier) -> str:
        """Return the text. `earlier` is what `write` was given.

        Raises:
            FormBroken: `write` does not write this, or it refers to what the receiver has not.
        """
        return _Reader(written.split("\n"), earlier).read()

    def is_same(self, text: str, read: str) -> bool:
        """See `Form.is_same`."""
        return text == read


class _Writer:
    """A text on its way into the form."""

    def __init__(self, lines: Sequence[str], earlier: Earlier) -> None:
        self._lines = lines
        self._earlier = earlier
        self._numbers = _numbers(lines, earlier)
        """The numbers of what each line has after the key; `UNQUOTABLE` if it begins otherwise."""
        self._lengths = list(map(len, lines))
        self._keys = {before: self._looked_up(numbers) for before, numbers in self._numbers.items()}
        """What is looked up for a run that begins at each line, and for each line alone."""
        keys = [*chain(*self._keys.values())]
        self._known = earlier.known({*chain(*keys)})
        self._again = _again(chain(*self._keys[""]), chain(*self._keys.get(_PLUS, ())))
        either = self._known | self._again
        at = (map(either.__contains__, each) for each in keys)
        self._begins = list(map(any, zip(*at, strict=True)))
        """Whether a run may begin at each line: at most lines of most texts, none does."""
        self._ends = [0, *accumulate(length + 1 for length in self._lengths)]
        self._own = earlier.count + 1
        self._written: list[str] = []
        self._seen: list[int] = []
        """The numbers of the lines written so far, as the receiver will see them."""
        self._places: dict[int, list[int]] = {}
        """The places of keys among the lines written so far."""

    def _looked_up(self, numbers: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """Return the key of the run at each line, and of the line alone; 0 where there is none."""
        long = [
            number if length >= ALONE else 0
            for number, length in zip(numbers, self._lengths, strict=True)
        ]
        return run_keys(numbers), long

    def write(self) -> str:
        start = 0
        while start < len(self._lines):
            runs = self._most(start) if self._begins[start] else ()
            end = start + _length(runs)
            room = self._ends[end] - self._ends[start] - 1
            if room >= ALONE and len(mark := _mark(runs, self._earlier)) < room:
                self._put(mark, UNQUOTABLE)
            else:
                end = max(end, start + 1)
                for index in range(start, end):
                    self._put(quote(self._lines[index]), self._numbers[""][index])
            start = end
        return "\n".join(self._written)

    def _most(self, start: int) -> Sequence[_Run]:
        """Return the runs from `start` on that cover most lines."""
        return max((list(self._runs(start, before)) for before in self._numbers), key=_length)

    def _runs(self, start: int, before: str) -> Iterator[_Run]:
        """Yield runs that follow one another from `start` on."""
        while start < len(self._lines) and (run := self._longest(start, before)):
            yield run
            start += run.length

    def _longest(self, start: int, before: str) -> _Run | None:
        best = None
        length = 0
        numbers = self._numbers[before]
        for keys in self._keys[before]:
            for piece, line in self._places_of(keys[start]):
                common = self._common(piece, line, numbers, start)
                if common > length:
                    best, length = _Run(piece, line, common, before), common
        if not best:
            return None
        size = self._ends[start + length] - self._ends[start] - 1
        if size >= RUN_CHARACTERS and size > len(_part([best], self._earlier)):
            return best
        return None

    def _places_of(self, key: int) -> Iterator[tuple[int, int]]:
        if key in self._known:
            yield from self._earlier.places(key)
        for line in self._places.get(key, ()):
            yield self._own, line

    def _common(self, piece: int, line: int, numbers: Sequence[int], start: int) -> int:
        """Count the lines from `start` on that are as those of a piece from `line` on."""
        there = self._seen if piece == self._own else self._earlier.numbers_of(piece)
        most = min(len(there) - line, len(numbers) - start)
        for length in range(most):
            number = there[line + length]
            if number != numbers[start + length] or number == UNQUOTABLE:
                return length
        return most

    def _put(self, line: str, number: int) -> None:
        self._written.append(line)
        self._seen.append(number)
        if self._again:
            last = len(self._seen) - 1
            self._index(run_key(self._seen, last - RUN_LINES + 1), last - RUN_LINES + 1)
            if len(line) >= ALONE:
                self._index(number, last)

    def _index(self, key: int, start: int) -> None:
        if key in self._again:
            places = self._places.setdefault(key, [])
            if len(places) < PLACES:
                places.append(start)


class _Reader:
    """A text on its way out of the form."""

    def __init__(self, written: Sequence[str], earlier: Earlier) -> None:
        self._written = written
        self._earlier = earlier
        self._own = earlier.count + 1
        self._lines: list[str] = []
        self._size = -1

    def read(self) -> str:
        for index, line in enumerate(self._written):
            content = unquote(line)
            if content is line and is_mark(line):
                for run in _read_mark(line, self._earlier):
                    self._take(run, index)
            else:
                self._add(content)
        return "\n".join(self._lines)

    def _take(self, run: _Run, before: int) -> None:
        """Add the lines of a run; those of this text stand before the line `before`."""
        itself = run.piece == self._own
        end = before if itself else len(self._earlier.numbers_of(run.piece))
        if run.start + run.length > end:
            raise FormBroken(_NAME, "a mark refers to lines that are not there")
        numbers = () if itself else self._earlier.numbers_of(run.piece)
        for index in range(run.start, run.start + run.length):
            line = self._written[index] if itself else self._earlier.line(numbers[index])
            if is_mark(line):
                raise FormBroken(_NAME, "a mark refers to a mark")
            self._add(run.before + line)

    def _add(self, line: str) -> None:
        self._size += len(line) + 1
        if self._size > LONGEST:
            raise FormBroken(_NAME, f"it stands for more than {LONGEST} characters")
        self._lines.append(line)


def _again(keys: Iterable[int], others: Iterable[int]) -> set[int]:
    """Return the keys that come again in a text, or that others lead to."""
    found = Counter(keys)
    again = {key for key, times in found.items() if times > 1}
    again.update(key for key in others if key in found)
    again.discard(0)
    return again


def _numbers(lines: Sequence[str], earlier: Earlier) -> dict[str, list[int]]:
    """Return the numbers of lines and, where some begin so, of what others have after a plus."""
    if not any(line.startswith(_PLUS) for line in lines):
        return {"": earlier.number(lines)}
    added = (line[1:] if line.startswith(_PLUS) else ANY_MARK for line in lines)
    numbers = earlier.number(chain(lines, added))
    return {"": numbers[: len(lines)], _PLUS: numbers[len(lines) :]}


def _mark(runs: Sequence[_Run], earlier: Earlier) -> str:
    """Write runs as a mark, those of one piece that follow one another under one name."""
    groups = groupby(runs, key=lambda run: run.piece)
    written = "; ".join(_part(list(group), earlier) for _, group in groups)
    word = "line" if len(runs) == 1 and runs[0].length == 1 else "lines"
    return f"[{word} {written} again{_AFTER_PLUS if runs[0].before else ''}]"


def _length(runs: Sequence[_Run]) -> int:
    return sum(run.length for run in runs)


def _part(runs: Sequence[_Run], earlier: Earlier) -> str:
    """Write runs of one piece."""
    piece = runs[0].piece
    source = _ITSELF if piece > earlier.count else earlier.name(piece)
    return f"{', '.join(map(_span, runs))}{_OF}{source}"


def _span(run: _Run) -> str:
    first, last = run.start + 1, run.start + run.length
    return f"{first}-{last}" if last > first else f"{first}"


def _read_mark(mark: str, earlier: Earlier) -> Sequence[_Run]:
    """Return the runs of a mark that stands in the text after `earlier`."""
    runs = list[_Run]()
    at = mark.index(" ") + 1
    before = _PLUS if mark.endswith(_AFTER_PLUS + "]") else ""
    while at < len(mark):
        of = mark.find(_OF, at)
        source = _SOURCE.match(mark, of + len(_OF))
        if of < 0 or not source:
            raise FormBroken(_NAME, "a mark names no lines")
        piece = earlier.count + 1 if source[1] == _ITSELF else earlier.find(source[1])
        runs += (_read_span(span, piece, before) for span in mark[at:of].split(", "))
        at = source.end()
    if not all(run.piece for run in runs) or _mark(runs, earlier) != mark:
        raise FormBroken(_NAME, "a mark is not written as marks are")
    return runs


def _read_span(span: str, piece: int, before: str) -> _Run:
    found = _LINES.fullmatch(span)
    if not found:
        raise FormBroken(_NAME, "a mark names no lines")
    first, last = int(found[1]), int(found[2] or found[1])
    return _Run(piece, first - 1, last - first + 1, before)
