"""Reads a folded text back."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import FormBroken
from .fold_head import whole
from .fold_marks import (
    AGAIN,
    DEFINED,
    MAX_TEXT,
    NAME,
    NAMED,
    OWN,
    PLAIN,
    REST,
    STARTS,
    TAIL,
    Marks,
    filled,
)

__all__ = ["Reader"]


class Reader:
    """Takes the lines of a folded text one after the other, and keeps those they stand for."""

    def __init__(self, marks: Marks) -> None:
        self.lines: list[str] = []
        """What was read."""
        opening, closing = marks.pair[0], marks.pair[1]
        self._marks = marks
        self._hole = re.compile(f"{opening}({TAIL}|[1-9]|){closing}")
        self._holes = re.compile(f"{opening}([^{opening}{closing}]*){closing}")
        self._start: Sequence[str] = ()
        self._kinds: list[str] = []
        """Of the holes in what lines start with: `TAIL`, the number of a field, or nothing."""
        self._fields = 0
        self._above: list[str] | None = None
        self._constants: dict[str, list[str]] = {}
        self._last: dict[str, list[str]] = {}
        self._bare: set[str] = set()
        """Names of lines that do not start like the others."""
        self._size = 0

    def take(self, line: str) -> None:
        """Read one line. Raises `FormBroken`."""
        marks = self._marks
        if marks.plain and line.startswith(PLAIN):
            self._add(line[len(PLAIN) :])
        elif found := AGAIN.fullmatch(line):
            self._again(int(found[1] or 1), int(found[2]))
        elif marks.headed and line.startswith(STARTS):
            self._starting(line)
        elif marks.headed and line.startswith(OWN):
            *values, rest = line[len(OWN) :].split(" ", self._fields)
            self._add(self._started(values) + rest)
        elif marks.named and (defined := DEFINED.match(line)):
            self._define(defined[1], defined[2] == "::" or not marks.headed, line[defined.end() :])
        elif (named := NAMED.match(line)) and named[1] in self._last:
            self._named(named[1], line)
        else:
            self._add(line)

    def _add(self, line: str) -> None:
        self._grow(len(line) + 1)
        self.lines.append(line)

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > MAX_TEXT:
            raise FormBroken(NAME, "it is too long")

    def _again(self, block: int, times: int) -> None:
        if block > len(self.lines):
            raise FormBroken(NAME, "it repeats lines that are not there")
        lines = self.lines[-block:]
        self._grow(times * (sum(map(len, lines)) + block))
        self.lines += lines * times

    def _starting(self, line: str) -> None:
        found = self._hole.split(line[len(STARTS) : -len(REST)])
        self._start, self._kinds = found[::2], found[1::2]
        self._fields = sum(not kind.isdecimal() for kind in self._kinds)
        if any(kind.isdecimal() and int(kind) > self._fields for kind in self._kinds):
            raise FormBroken(NAME, "lines start with a value that is not there")
        other = self._above is not None and len(self._above) != self._fields
        if other or not line.endswith(REST):
            raise FormBroken(NAME, "it does not say how lines start")

    def _started(self, values: list[str]) -> str:
        """Return what a line starts with, by its first values."""
        if not self._start or len(values) != self._fields:
            raise FormBroken(NAME, "a line has too few values")
        kinds = [kind for kind in self._kinds if not kind.isdecimal()]
        if self._above is not None:
            values = [
                before if value == "=" else whole(value, before) if kind else value
                for value, before, kind in zip(values, self._above, kinds, strict=True)
            ]
        self._above = values
        own = iter(values)
        every = [values[int(k) - 1] if k.isdecimal() else next(own) for k in self._kinds]
        return filled(self._start, every)

    def _define(self, name: str, bare: bool, line: str) -> None:
        """Take a line that is given a name."""
        *values, rest = line.split(" ", 0 if bare else self._fields)
        found = self._holes.split(rest)
        self._constants[name], self._last[name] = found[::2], found[1::2]
        (self._bare.add if bare else self._bare.discard)(name)
        self._add(("" if bare else self._started(values)) + filled(found[::2], found[1::2]))

    def _named(self, name: str, line: str) -> None:
        """Take a line that is as one that has a name."""
        items = line.split(" ")[1:]
        bare = name in self._bare
        fields = 0 if bare else self._fields
        values, given, last = items[:fields], items[fields:], self._last[name]
        if len(given) != len(last):
            raise FormBroken(NAME, "a line has too few or too many values")
        self._last[name] = filling = [
            b if a == "=" else a for a, b in zip(given, last, strict=True)
        ]
        start = "" if bare else self._started(values)
        self._add(start + filled(self._constants[name], filling))
