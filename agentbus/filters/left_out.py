"""Marks that say what a lossy filter left out, and where it is to be had.

    [lines 41-180 left out here; the source is intact: get ctx:ab12cd34 lines=41-180]
    [characters 2001-98000 of line 1 left out here; the source is intact:
     get ctx:ab12cd34 lines=1-1 characters=2001-98000]
    [colour codes left out; the source is intact: get ctx:ab12cd34]
    [left out at …; the source is intact: get ctx:ab12cd34]

A mark is a line of its own; that for characters, too long for this page, begins and ends within a
line of the original. Lines are those of the original, split at line feeds and counted from 1;
characters are counted from 1 in their line. A line of content in which a mark could be seen has
`[quoted] ` before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..context.earlier import is_mark

__all__ = ["MAX_LINES", "characters_mark", "lines_mark", "merged", "note", "quoted", "signs_mark"]

MAX_LINES: Final = 2_000_000
"""A text of more lines, most of which are very short, is delivered whole."""

_QUOTED: Final = "[quoted] "
_SAID: Final = "left out"
"""In each mark."""


def note(what: str, ref: str) -> str:
    """Return the mark of a text from which something was left out in many places."""
    return f"[{what} {_SAID}; the source is intact: get {ref}]"


def signs_mark(sign: str, ref: str) -> str:
    """Return the mark of a text in which a sign stands wherever something was left out."""
    return f"[{_SAID} at {sign}; the source is intact: get {ref}]"


def lines_mark(first: int, last: int, ref: str, there: str = "") -> str:
    """Return the mark for whole lines.

    Args:
        there: what stands in them; without brackets and line ends.
    """
    span = f"{first}-{last}"
    what = f"lines {span}" if last > first else f"line {first}"
    return _here(what, f"{ref} lines={span}", there)


def characters_mark(line: int, first: int, last: int, ref: str, there: str = "") -> str:
    """Return the mark for a part of a line: from one character to another, both left out."""
    span = f"{first}-{last}"
    return _here(
        f"characters {span} of line {line}", f"{ref} lines={line}-{line} characters={span}", there
    )


def _here(what: str, source: str, there: str) -> str:
    return f"[{what} {_SAID} here; the source is intact: get {source}{there and f'; {there}'}]"


def quoted(line: str) -> str:
    """Return a line of content as it stands in a text with marks."""
    opened = line.find("[")
    looks_so = opened >= 0 and line.find(_SAID, opened) >= 0
    return _QUOTED + line if looks_so or is_mark(line) else line


def merged(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return ranges of lines, given in order, with those that touch or overlap as one."""
    found: list[tuple[int, int]] = []
    for first, last in ranges:
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return tuple(found)
