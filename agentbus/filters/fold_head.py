"""How the lines of a log start: a date, a time, a host, which nearly all lines have alike.

Owns finding that start and cutting lines there. What follows it is for `fold_templates`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, starmap
from operator import ne
from string import ascii_letters, digits

__all__ = ["Head", "Parts", "find_head", "parts_of", "shortened", "whole"]

Parts = list[str]
"""A line as words and what separates them, in turns: the first and the last are words."""

_SEPARATORS = re.compile(r"([\s=;|\[\](){}<>\"'«»⟨⟩⟦⟧]+)", re.ASCII)
_OPENING = "[({<\"'«⟨⟦"
_ALPHANUMERIC = ascii_letters + digits
_WORD = re.compile("[A-Za-z0-9]+")
_NUMERIC = re.compile("(?![^0-9]*[A-Za-z]{4})[^0-9]{0,4}[0-9]")
"""A word that is a number, a time or an identifier: no longer words before its first digit."""
_TAILED = re.compile("0[^0]+0")
"""The shape of several words, the first one at the start."""
_MAX_LINE = 4096
"""Characters of a line that is looked into."""
_MAX_WORDS = 10
"""Words of a start."""
_MAX_COPIES = 9
"""Fields that can be referred to, by one digit."""
_MIN_LINES = 5
"""Lines that must start alike."""
_MIN_SAID = 600
"""Characters that a start must save in all lines together, since it is explained."""
_TAIL = 8
"""Characters, about, that a line saves by giving only the end of a time."""
_ALIKE = 0.9
"""Share of lines that must start alike."""
_SLOW = 0.03
"""Share of lines where a word changes that is written anew in a line of its own."""
_MAX_GUESSES = 1
"""Words that change and are no numbers."""
_MAX_KIND = 12
"""Characters of one of them."""
_MAX_KINDS = 16
"""Different words without a digit, such as levels, where one changes from line to line."""


@dataclass(frozen=True, slots=True)
class Field:
    """A word that changes often: each line has its own."""

    word: int
    shape: str
    """For a time and the like, with 0 for each of its words: a line gives the end that changed."""


@dataclass(frozen=True, slots=True)
class Head:
    """How lines start: some words, each with the separator that follows it."""

    separators: list[str]
    """After each word."""
    blank: list[bool]
    """Which of them may be any white space."""
    fields: tuple[Field, ...]
    copies: tuple[tuple[int, int], ...]
    """A word that is the same as a field's in each line, and the number of the field."""
    loose: bool
    """Whether the last separator is white space that differs: only a blank of it belongs to it."""

    def cut(self, parts: Parts) -> tuple[Parts, Parts] | None:
        """Cut a line into its start and what follows; None where it does not start so."""
        width = 2 * len(self.separators)
        if len(parts) <= width:
            return None
        separators = parts[1:width:2]
        if separators != self.separators and not self._blank(separators):
            return None
        for field in self.fields:
            if field.shape and _shape(parts[2 * field.word]) != field.shape:
                return None
        for word, field_number in self.copies:
            if parts[2 * word] != parts[2 * self.fields[field_number].word]:
                return None
        last = parts[width - 1]
        closed = last[:1] if self.loose else last.rstrip(_OPENING)
        if closed == last:
            return parts[:width], parts[width:]
        return [*parts[: width - 1], closed], ["", last[len(closed) :], *parts[width:]]

    def _blank(self, separators: Parts) -> bool:
        """Say whether a line's separators differ in white space only, where it may."""
        pairs = zip(separators, self.separators, self.blank, strict=True)
        return all(a == b or (blank and a.isspace()) for a, b, blank in pairs)


def parts_of(line: str) -> Parts | None:
    """Cut a line into words and separators; None where it is too long to be looked into."""
    return _SEPARATORS.split(line) if len(line) <= _MAX_LINE else None


def shortened(value: str, before: str) -> str:
    """Return the end of a value from the first word on that is not as in one of the same shape."""
    start, end = 0, min(len(value), len(before))
    while start < end:
        middle = (start + end + 1) // 2
        if value[:middle] == before[:middle]:
            start = middle
        else:
            end = middle - 1
    while start and value[start - 1] in _ALPHANUMERIC:
        start -= 1
    return value[start:]


def whole(end: str, before: str) -> str:
    """Return the value that `shortened` was given."""
    words = len(_WORD.findall(end))
    starts = [word.start() for word in _WORD.finditer(before)]
    return before[: starts[-words]] + end if words < len(starts) else end


class _Scan:
    """Looks at the words of lines one after the other."""

    def __init__(self, rows: list[Parts]) -> None:
        self.rows = rows
        self.separators: list[str] = []
        self.blank: list[bool] = []
        self.fields: list[Field] = []
        self.copies: list[tuple[int, int]] = []
        self.head: Head | None = None
        """The best start so far."""
        self._said = 0
        self._guesses = 0
        self._sure = True
        """Whether the last word that changes is a number, or the like."""

    def take(self, word: int, least: float) -> bool:
        """Look at one word; False where lines are no more alike after it."""
        rows, separator = _alike(self.rows, word)
        if len(rows) < least:
            return False
        at = 2 * word + 1
        changes = separator.isspace() and _changes([parts[at] for parts in rows])
        loose = False
        if changes > _SLOW * len(rows):
            exact = [parts for parts in rows if parts[at] == separator]
            loose = len(exact) < least
            rows = rows if loose else exact
        self.rows = rows
        self.separators.append(separator)
        self.blank.append(separator.isspace() and (loose or changes <= _SLOW * len(rows)))
        values = [parts[2 * word] for parts in rows]
        if _changes(values) <= _SLOW * len(values):
            self._said += len(values[0]) + len(separator)
        elif not self._change(word, values, least):
            return False
        if self._sure:
            self._keep(loose)
        return not loose

    def _change(self, word: int, values: list[str], least: float) -> bool:
        """Take a word that changes often; False where no start goes beyond it."""
        kinds = Counter(values)
        self._sure = sum(kinds[kind] for kind in kinds if _NUMERIC.match(kind)) >= least
        if not self._sure:
            self._guesses += 1
            self.fields.append(Field(word, ""))
            short = max(map(len, kinds)) <= _MAX_KIND and len(kinds) <= _MAX_KINDS
            return short and self._guesses <= _MAX_GUESSES
        for number, field in enumerate(self.fields[:_MAX_COPIES]):
            same = [parts for parts in self.rows if parts[2 * word] == parts[2 * field.word]]
            if len(same) >= least:
                self.rows = same
                self._said += len(values[0])
                self.copies.append((word, number))
                return True
        shapes: Counter[str] = Counter()
        for kind, count in kinds.items():
            shapes[_shape(kind)] += count
        shape = _most(shapes)
        tailed = shapes[shape] >= least and _TAILED.match(shape) is not None
        self._said += _TAIL * tailed
        self.fields.append(Field(word, shape if tailed else ""))
        return True

    def _keep(self, loose: bool) -> None:
        if self._said * len(self.rows) >= _MIN_SAID:
            fields, copies = tuple(self.fields), tuple(self.copies)
            self.head = Head(self.separators[:], self.blank[:], fields, copies, loose)


def find_head(lines: Sequence[Parts | None]) -> Head | None:
    """Find what nearly all lines start with; None where they do not start alike."""
    rows = [parts for parts in lines if parts and len(parts) > 1]
    scan = _Scan(rows)
    least = max(_MIN_LINES, _ALIKE * len(rows))
    for word in range(_MAX_WORDS):
        if not scan.take(word, least):
            break
    return scan.head


def _changes(values: Sequence[str]) -> int:
    """Count how often a value is not as the one before."""
    return sum(starmap(ne, pairwise(values)))


def _shape(value: str) -> str:
    return _WORD.sub("0", value)


def _alike(rows: list[Parts], word: int) -> tuple[list[Parts], str]:
    """Return the lines whose separator after a word is the most common one, and that one.

    All white space counts as alike.
    """
    at = 2 * word + 1
    rows = [parts for parts in rows if len(parts) > at]
    if not rows:
        return [], ""
    found = Counter(parts[at] for parts in rows)
    kinds: Counter[str] = Counter()
    for separator, count in found.items():
        kinds[_plain(separator)] += count
    kind = _most(kinds)
    same = Counter({one: count for one, count in found.items() if _plain(one) == kind})
    return [parts for parts in rows if parts[at] in same], _most(same)


def _most(counts: Counter[str]) -> str:
    return max(counts, key=lambda one: (counts[one], one))


def _plain(separator: str) -> str:
    return " " if separator.isspace() else separator
