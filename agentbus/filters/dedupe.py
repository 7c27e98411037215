"""Lines that a receiver was given before are not given again; byte-exact.

A run of lines that stands in an earlier piece, or earlier in the same text, becomes one line:

    [lines 41-180 of #12 again]
    [lines 3-9, 14 of #7; 2-40 of this text again]

Runs are found by an index of three lines on end (and of long lines alone), the longest first, among
equals the earliest; from the start of the text, without looking back, as LZ77 does. A mark covers
only what stands written out, so a run never leads through another mark. Content that looks like a
mark has `[quoted] ` before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, groupby
from typing import Literal

from ..errors import FormBroken
from .earlier import (
    ALONE,
    LONGEST,
    PLACES,
    RUN_LINES,
    UNQUOTABLE,
    Earlier,
    is_mark,
    quote,
    run_key,
    unquote,
)

__all__ = ["RUN_CHARACTERS", "Dedupe"]

RUN_CHARACTERS = 40
"""A run of lines is at least so long; and all runs of one mark together at least `ALONE`."""

_NAME = "dedupe/1"
_ITSELF = "this text"
_SOURCE = re.compile(r"#([1-9][0-9]{0,8})")
_LINES = re.compile(r"([1-9][0-9]{0,8})(?:-([1-9][0-9]{0,8}))?")


@dataclass(frozen=True, slots=True)
class _Run:
    """Lines that stand in a piece: that piece's number, the index of the first, how many."""

    piece: int
    start: int
    length: int


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
        self._numbers = earlier.number(lines)
        self._lengths = list(map(len, lines))
        self._ends = [0, *accumulate(length + 1 for length in self._lengths)]
        self._own = earlier.count + 1
        self._written: list[str] = []
        self._seen: list[int] = []
        """The numbers of the lines written so far, as the receiver will see them."""
        self._places: dict[int, list[int]] = {}
        """The places of keys among the lines written so far."""

    def write(self) -> str:
        start = 0
        while start < len(self._lines):
            runs = list(self._runs(start))
            end = start + sum(run.length for run in runs)
            room = self._ends[end] - self._ends[start] - 1
            if runs and room >= ALONE:  # more than any mark of such runs takes
                self._put(_mark(runs, self._own), UNQUOTABLE)
            else:
                end = max(end, start + 1)
                for index in range(start, end):
                    self._put(quote(self._lines[index]), self._numbers[index])
            start = end
        return "\n".join(self._written)

    def _runs(self, start: int) -> Iterator[_Run]:
        """Yield runs that follow one another from `start` on."""
        while start < len(self._lines) and (run := self._longest(start)):
            yield run
            start += run.length

    def _longest(self, start: int) -> _Run | None:
        best = None
        length = 0
        for key in (run_key(self._numbers, start), self._long(start)):
            own = ((self._own, line) for line in self._places.get(key, ()))
            for piece, line in chain(self._earlier.places(key), own):
                common = self._common(piece, line, start)
                if common > length:
                    best, length = _Run(piece, line, common), common
        size = self._ends[start + length] - self._ends[start] - 1
        return best if size >= RUN_CHARACTERS else None

    def _common(self, piece: int, line: int, start: int) -> int:
        """Count the lines from `start` on that are as those of a piece from `line` on."""
        numbers = self._numbers
        there = self._seen if piece == self._own else self._earlier.numbers_of(piece)
        most = min(len(there) - line, len(numbers) - start)
        for length in range(most):
            number = there[line + length]
            if number != numbers[start + length] or number == UNQUOTABLE:
                return length
        return most

    def _long(self, start: int) -> int:
        return self._numbers[start] if self._lengths[start] >= ALONE else UNQUOTABLE

    def _put(self, line: str, number: int) -> None:
        self._written.append(line)
        self._seen.append(number)
        last = len(self._seen) - 1
        self._index(run_key(self._seen, last - RUN_LINES + 1), last - RUN_LINES + 1)
        if len(line) >= ALONE:
            self._index(number, last)

    def _index(self, key: int, start: int) -> None:
        if key:
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
                for run in _read_mark(line, self._own):
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
            self._add(line)

    def _add(self, line: str) -> None:
        self._size += len(line) + 1
        if self._size > LONGEST:
            raise FormBroken(_NAME, f"it stands for more than {LONGEST} characters")
        self._lines.append(line)


def _mark(runs: Iterable[_Run], own: int) -> str:
    """Write runs as a mark, those of one piece that follow one another under one name."""
    parts = []
    for piece, group in groupby(runs, key=lambda run: run.piece):
        source = _ITSELF if piece == own else f"#{piece}"
        parts.append(f"{', '.join(map(_span, group))} of {source}")
    written = "; ".join(parts)
    word = "lines" if "-" in written or "," in written or ";" in written else "line"
    return f"[{word} {written} again]"


def _span(run: _Run) -> str:
    first, last = run.start + 1, run.start + run.length
    return f"{first}-{last}" if last > first else f"{first}"


def _read_mark(mark: str, own: int) -> Sequence[_Run]:
    """Return the runs of a mark; `own` is the number of the text that it stands in."""
    runs = []
    written = mark.removeprefix("[lines ").removeprefix("[line ").removesuffix(" again]")
    for part in written.split("; "):
        spans, _, source = part.rpartition(" of ")
        name = _SOURCE.fullmatch(source)
        for span in spans.split(", "):
            found = _LINES.fullmatch(span)
            if not found or not (name or source == _ITSELF):
                raise FormBroken(_NAME, "a mark names no lines")
            first = int(found[1])
            last = int(found[2] or first)
            runs.append(_Run(int(name[1]) if name else own, first - 1, last - first + 1))
    if _mark(runs, own) != mark:
        raise FormBroken(_NAME, "a mark is not written as marks are")
    return runs
