"""Templates of lines: which lines differ in parameters only, and what these are.

After Drain (He et al., ICWS 2017), in two passes over the text: words with digits are parameters;
then templates of one shape that differ in few words become one. The order of lines is not touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import ne
from string import digits, punctuation

from .fold_head import Parts

__all__ = ["Template", "find_templates"]

_DIGIT = re.compile("[0-9]")
_PIECE = re.compile("[0-9]|[A-Za-z]{1,6}|[^A-Za-z0-9 ]{1,2}|  +")
"""About a token."""
_PARAMETER = "\0"
_MAX_CANDIDATES = 8
"""Templates of one shape that a new one is compared with."""


_MIN_EACH = 4
"""Tokens that a line must save, about, to be worth a look at the line that it is like."""


@dataclass(frozen=True, slots=True)
class Template:
    """A line with holes. There is one more constant than there are holes."""

    constants: tuple[str, ...]
    rows: dict[int, tuple[str, ...]]
    """By number of the line, what fills its holes; the first line comes first."""

    @property
    def gain(self) -> int:
        """Tokens that it saves, about."""
        holes = len(self.constants) - 1
        each = len(_PIECE.findall("".join(self.constants))) - 1 - holes // 2
        return (len(self.rows) - 1) * each - 2 * holes - 2 if each >= _MIN_EACH else 0


@dataclass(slots=True)
class _Group:
    words: list[str]
    lines: list[int]


def find_templates(lines: Sequence[Parts | None]) -> list[Template]:
    """Return the templates that save tokens."""
    found = []
    for group in _merged(_masked(lines)):
        if len(group.lines) > 1:
            template = _template(lines, group.lines)
            if template.gain > 0:
                found.append(template)
    return found


def _masked(lines: Sequence[Parts | None]) -> dict[tuple[str, ...], list[int]]:
    """Group lines that are equal but for words with digits."""
    digit = _DIGIT.search
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, parts in enumerate(lines):
        if parts is not None and len(parts) > 1:
            masked = (
                [_PARAMETER if digit(part) else part for part in parts]
                if digit("".join(parts))
                else parts
            )
            mask = tuple(masked)
            groups.setdefault(mask, []).append(number)
    return groups


def _merged(masks: dict[tuple[str, ...], list[int]]) -> Iterator[_Group]:
    """Join groups of one shape that differ in few words."""
    shapes: dict[tuple[str, ...], list[_Group]] = {}
    for mask, lines in masks.items():
        words = list(mask[::2])
        groups = shapes.setdefault(mask[1::2], [])
        for group in groups[-_MAX_CANDIDATES:]:
            if _alike(group.words, words):
                group.words = [
                    a if a == b else _PARAMETER for a, b in zip(group.words, words, strict=True)
                ]
                group.lines += lines
                break
        else:
            groups.append(_Group(words, lines))
    for groups in shapes.values():
        yield from groups


def _alike(one: list[str], other: list[str]) -> bool:
    differing = sum(map(ne, one, other))
    equal = len(one) - differing
    if equal < 2 or 3 * (differing - 1) > equal:
        return False
    constant = sum(a == b != _PARAMETER and b != "" for a, b in zip(one, other, strict=True))
    return constant >= 2 and differing <= 1 + constant // 3


def _template(lines: Sequence[Parts | None], numbers: list[int]) -> Template:
    rows = [parts for number in numbers if (parts := lines[number]) is not None]
    constants: list[str] = []
    columns: list[Sequence[str]] = []
    text = ""
    for column in zip(*rows, strict=True):
        if len(set(column)) == 1:
            text += column[0]
            continue
        before, values, after = _trimmed(column)
        constants.append(text + before)
        columns.append(values)
        text = after
    constants.append(text)
    values_of = zip(*columns, strict=True) if columns else [()] * len(numbers)
    return Template(tuple(constants), dict(zip(numbers, values_of, strict=True)))


def _trimmed(column: Sequence[str]) -> tuple[str, Sequence[str], str]:
    """Take what all values start and end with out of them: whole words without a digit."""
    before = _shared(column)
    after = _shared([value[::-1] for value in column])[::-1]
    start, end = len(before), len(after)
    if not (start or end) or start + end >= min(map(len, column)):
        return "", column, ""
    return before, [value[start : len(value) - end] for value in column], after


def _shared(values: Sequence[str]) -> str:
    """Return what all values start with, up to the end of a word, and no further than a digit."""
    end = 0
    for at, (a, b) in enumerate(zip(min(values), max(values), strict=False)):
        if a != b or a in digits:
            break
        if a in punctuation:
            end = at + 1
    return values[0][:end]
