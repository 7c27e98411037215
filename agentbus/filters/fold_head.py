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
_MIN_SAID = 6
"""Characters that a start must say once for all lines."""
_ALIKE = 0.9
"""Share of lines that must start alike."""
_SLOW = 0.03
"""Share of lines where a word changes that is written anew in a line of its own."""
_MAX_GUESSES = 1
"""Words that change and are no numbers."""
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
    """After each word; white space as one blank."""
    fields: tuple[Field, ...]
    copies: tuple[tuple[int, int], ...]
    """A word that is the same as a field's in each line, and the number of the field."""

    def cut(self, parts: Parts) -> tuple[Parts, Parts] | None:
        """Cut a line into its start and what follows; None where it does not start so."""
        width = 2 * len(self.separators)
        if len(parts) <= width:
            return None
        separators = parts[1:width:2]
        if separators != self.separators and [*map(_plain, separators)] != self.separators:
            return None
        for field in self.fields:
            if field.shape and _shape(parts[2 * field.word]) != field.shape:
                return None
        for word, field_number in self.copies:
            if parts[2 * word] != parts[2 * self.fields[field_number].word]:
                return None
        last = parts[width - 1]
        closed = last.rstrip(_OPENING)
        if closed == last:
            return parts[:width], parts[width:]
        return [*parts[: width - 1], closed], ["", last[len(closed) :], *parts[width:]]


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
    return before[: starts[-words]] + end if 0 < words < len(starts) else end


class _Scan:
    """Looks at the words of lines one after the other."""

    def __init__(self, rows: list[Parts]) -> None:
        self.rows = rows
        self.separators: list[str] = []
        self.fields: list[Field] = []
        self.copies: list[tuple[int, int]] = []
        self.head: Head | None = None
        """The best start so far."""
        self._said = 0
        self._guesses = 0

    def take(self, word: int, least: float) -> bool:
        """Look at one word; False where lines are no more alike."""
        rows, separator = _alike(self.rows, word)
        if len(rows) < least:
            return False
        self.rows = rows
        self.separators.append(separator)
        values = [parts[2 * word] for parts in rows]
        if sum(starmap(ne, pairwise(values))) <= _SLOW * len(values):
            self._said += len(values[0]) + len(separator)
            numeric = not self.fields or self.fields[-1].shape != "?"
            if numeric:
                self._keep()
            return True
        return self._change(word, values, least)

    def _change(self, word: int, values: list[str], least: float) -> bool:
        kinds = Counter(values)
        if sum(kinds[kind] for kind in kinds if _NUMERIC.match(kind)) < least:
            self._guesses += 1
            self.fields.append(Field(word, "?"))
            return self._guesses <= _MAX_GUESSES and len(kinds) <= _MAX_KINDS
        for number, field in enumerate(self.fields[:_MAX_COPIES]):
            same = [parts for parts in self.rows if parts[2 * word] == parts[2 * field.word]]
            if len(same) >= least:
                self.rows = same
                self.copies.append((word, number))
                break
        else:
            shapes = Counter(map(_shape, kinds))
            shape = max(shapes, key=lambda shape: (shapes[shape], shape))
            alike = shapes[shape] >= _ALIKE * len(kinds) and _TAILED.match(shape) is not None
            self.fields.append(Field(word, shape if alike else ""))
        self._keep()
        return True

    def _keep(self) -> None:
        if self._said < _MIN_SAID and not any(field.shape not in "?" for field in self.fields):
            return
        fields = tuple(Field(f.word, "" if f.shape == "?" else f.shape) for f in self.fields)
        self.head = Head(list(self.separators), fields, tuple(self.copies))


def find_head(lines: Sequence[Parts | None]) -> Head | None:
    """Find what nearly all lines start with; None where they do not start alike."""
    rows = [parts for parts in lines if parts and len(parts) > 1]
    scan = _Scan(rows)
    least = max(_MIN_LINES, _ALIKE * len(rows))
    for word in range(_MAX_WORDS):
        if not scan.take(word, least):
            break
    return scan.head


def _shape(value: str) -> str:
    return _WORD.sub("0", value)


def _alike(rows: list[Parts], word: int) -> tuple[list[Parts], str]:
    """Return the lines whose separator after a word is the most common one, and that one."""
    at = 2 * word + 1
    rows = [parts for parts in rows if len(parts) > at]
    if not rows:
        return [], ""
    found = Counter(parts[at] for parts in rows)
    counts: Counter[str] = Counter()
    for separator, count in found.items():
        counts[_plain(separator)] += count
    common = max(counts, key=lambda separator: (counts[separator], separator))
    same = {separator for separator in found if _plain(separator) == common}
    return [parts for parts in rows if parts[at] in same], common


def _plain(separator: str) -> str:
    return " " if separator.isspace() else separator
