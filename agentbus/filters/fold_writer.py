"""Writes a folded text, part by part, so that memory stays bounded by the largest part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .fold_head import Head, Parts, find_head, parts_of, shortened
from .fold_marks import (
    NAMED,
    NAMES,
    OWN,
    PLAIN,
    REST,
    STARTS,
    TAIL,
    Marks,
    again,
    filled,
)
from .fold_templates import Template, find_templates

__all__ = ["written"]

_MAX_PART = 1 << 20
"""Characters of lines that share templates."""
_MAX_BLOCK = 40
"""Lines of a block whose repeats are counted."""
_MIN_GAIN = 70
"""Tokens, about, that names must save in all, since they are explained."""
_MIN_REPEATED = 64
"""Characters that a mark must stand for, which takes half as many."""


def written(text: str, pair: str) -> str:
    """Return a text folded, with brackets that it has nowhere."""
    writer = _Writer(pair)
    for part in _parts(text.split("\n")):
        writer.take(part)
    return writer.text()


def _parts(lines: list[str]) -> Iterator[list[str]]:
    start = size = 0
    for number, line in enumerate(lines):
        size += len(line) + 1
        if size > _MAX_PART and number > start:
            yield lines[start:number]
            start, size = number, len(line) + 1
    yield lines[start:]


class _Writer:
    """The state that a text's reader has, and the lines so far."""

    def __init__(self, pair: str) -> None:
        self._pair = pair
        self._open, self._close = pair[0], pair[1]
        self._rows: list[str] = []
        self._as_is: dict[int, bool] = {}
        """Which of them stand as they are, and whether they begin with a name in use."""
        self._names: set[str] = set()
        self._head: Head | None = None
        self._first = True
        self._starts = ""
        self._above: list[str] | None = None
        self._bare = False

    def take(self, lines: list[str]) -> None:
        """Write the next lines."""
        cut = [parts_of(line) for line in lines]
        if self._first:
            self._head = find_head(cut)
            self._first = False
        part = _Part(lines, cut, self._head)
        number = 0
        while number < len(lines):
            if number in part.repeats:
                block, times = part.repeats[number]
                self._rows.append(again(block, times))
                number += block * times
            else:
                self._line(part, number)
                number += 1

    def text(self) -> str:
        """Return the folded text."""
        copies = self._head is not None and bool(self._head.copies)
        marks = Marks(self._pair, bool(self._names), bool(self._starts), self._bare, copies)
        rows = self._rows
        hidden = [n for n, named in self._as_is.items() if named or marks.reads_as_mark(rows[n])]
        if hidden:
            marks = replace(marks, plain=True)
            hidden += [n for n in self._as_is if rows[n].startswith(PLAIN)]
            for number in hidden:
                rows[number] = PLAIN + rows[number]
        return "\n".join([marks.explained(), *rows])

    def _line(self, part: _Part, number: int) -> None:
        fields: list[str] = []
        start = part.starts[number]
        if start is not None and self._head is not None:
            self._starting(self._head, start)
            fields = self._fields(self._head, start)
        template = part.template_of.get(number)
        if template is not None:
            bare = part.headed and start is None
            self._bare = self._bare or bare
            self._rows.append(self._of_template(part, template, number, fields, bare))
        elif start is not None:
            body = "".join(part.bodies[number] or ())
            self._rows.append(OWN + " ".join([*fields, body]))
        else:
            line = part.lines[number]
            found = NAMED.match(line)
            self._as_is[len(self._rows)] = found is not None and found[1] in self._names
            self._rows.append(line)

    def _of_template(
        self, part: _Part, template: int, number: int, fields: list[str], bare: bool
    ) -> str:
        values = part.templates[template].rows[number]
        if template not in part.names:
            part.names[template] = name = next(part.free)
            self._names.add(name)
            shown = [self._open + value + self._close for value in values]
            line = filled(part.templates[template].constants, shown)
            row = name + (":: " if bare else ": ") + " ".join([*fields, line])
        else:
            before = part.last[template]
            same = ["=" if a == b else a for a, b in zip(values, before, strict=True)]
            row = " ".join([part.names[template], *fields, *same])
        part.last[template] = values
        return row

    def _starting(self, head: Head, start: Parts) -> None:
        """Say what lines start with, where it is not as before."""
        shown = list(start)
        for field in head.fields:
            shown[2 * field.word] = self._open + (TAIL if field.shape else "") + self._close
        for word, number in head.copies:
            shown[2 * word] = f"{self._open}{number + 1}{self._close}"
        starts = STARTS + "".join(shown) + REST
        if starts != self._starts:
            self._starts = starts
            self._rows.append(starts)

    def _fields(self, head: Head, start: Parts) -> list[str]:
        values = [start[2 * field.word] for field in head.fields]
        above, self._above = self._above, values
        if above is None:
            return values
        return [
            "=" if value == before else shortened(value, before) if field.shape else value
            for value, before, field in zip(values, above, head.fields, strict=True)
        ]


class _Part:
    """Lines that share templates."""

    def __init__(self, lines: list[str], cut: list[Parts | None], head: Head | None) -> None:
        self.lines = lines
        self.headed = head is not None
        self.repeats = dict(_repeats(lines))
        for number, (block, times) in self.repeats.items():
            cut[number : number + block * times] = [None] * (block * times)
        both = [head.cut(parts) if head and parts else None for parts in cut]
        self.starts = [each[0] if each else None for each in both]
        self.bodies = [each[1] if each else None for each in both]
        other = [None if each else parts for each, parts in zip(both, cut, strict=True)]
        found = find_templates(self.bodies) + find_templates(other)
        if sum(template.gain for template in found) < _MIN_GAIN:
            found = []
        found.sort(key=lambda template: (-template.gain, next(iter(template.rows))))
        taken = {named[1] for line in lines if (named := NAMED.match(line))} if found else set()
        free = [name for name in NAMES if name not in taken]
        self.free = iter(free)
        """Names that no line begins with."""
        self.templates: list[Template] = found[: len(free)]
        self.template_of = {
            line: number for number, found in enumerate(self.templates) for line in found.rows
        }
        """By number of a line, the number of its template."""
        self.names: dict[int, str] = {}
        self.last: dict[int, tuple[str, ...]] = {}


def _repeats(lines: list[str]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield where lines come again: from which one on, how many, and how often."""
    last: dict[str, int] = {}
    number = 0
    while number < len(lines):
        before = last.get(lines[number])
        block, times = _block(lines, before, number) if before is not None else (1, 0)
        if times:
            yield number, (block, times)
            number += block * times
            last.update((lines[n], n) for n in range(number - block, number))
        else:
            last[lines[number]] = number
            number += 1


def _block(lines: list[str], before: int, number: int) -> tuple[int, int]:
    """Return how many lines up to one come again there, and how often."""
    size = number - before
    if size > _MAX_BLOCK:
        return size, 0
    block, end = lines[before:number], number
    while block == lines[end : end + size]:
        end += size
    times = (end - number) // size
    worth = times and times * (sum(map(len, block)) + size) > _MIN_REPEATED
    return size, times if worth else 0
