"""What stands where in a text, in few words: a map of what is left out of it.

A map states only what can be read off the text: of source code the lines that define something, of
diffs those that name files; of JSON, as a parser finds them, where the keys of the outermost object
begin, or which of how many items. Where one part of it is most of it, that part is mapped instead.
Of other texts it says nothing.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from json import JSONDecoder
from typing import Final

__all__ = ["ENTRIES", "Landmarks"]

ENTRIES: Final = 16
"""Landmarks that are named; of more it is said how many."""

_MAX_JSON: Final = 1 << 20
"""Characters of JSON that is parsed."""
_MAX_PARTS: Final = 20_000
"""Items or keys of JSON that is mapped."""
_MAX_DEPTH: Final = 8
"""Objects and arrays in each other that are looked into."""
_MAX_LINE: Final = 200
"""Characters of a line that are looked at."""
_DEFINITION: Final = re.compile(
    r"""
    [ \t]*+ (?:[0-9]++[:|\t][ \t]*+)?                              # as tools number lines
    (?: (?:export|default|public|private|protected|internal|static|final|abstract|sealed|partial
          |async|pub(?:\(\w+\))?|unsafe|inline) [ ]++ )*+
    (?P<what>
        (?: def\ [\w.]+[?!]? | function\*?\ \w+ | fn\ \w+ | func\ (?:\([^()]*+\)\ )?\w+ )
        (?= \s* (?:[(<\[]|$) )
      | class\ [A-Z]\w* (?= \s*+ (?:[(:{<]|$) | \ (?:extends|implements)\ )
      | (?:interface|enum|struct|trait|record|namespace|module|mod|impl)\ [\w.]+
        (?= \s* [({:<] | \ (?:extends|implements|for)\ )
      | type\ \w+ (?= \ (?:struct|interface)\b | \ ?= )
      | const\ \w+ (?= \ =\ (?:async\ )?\( )
      | diff\ --git\ [^\s\[\]]+\ [^\s\[\]]+
    )
    """,
    re.VERBOSE | re.ASCII,
)
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_PLAIN_KEY: Final = re.compile(r'"[\w .$@/-]{1,40}"', re.ASCII)
_VALUES: Final = JSONDecoder(parse_int=str, parse_float=str)
_CLOSING: Final = {"[": "]", "{": "}"}


class Landmarks:
    """The landmarks of a text."""

    def __init__(self, text: str, lines: Sequence[str]) -> None:
        """Look at a text, whose lines these are, in linear time."""
        self._lines = lines
        self._starts = [0, *accumulate(len(line) + 1 for line in lines)]
        self._parts = _parts_of(text) if len(text) <= _MAX_JSON else None

    def in_lines(self, first: int, last: int) -> str:
        """Return the map of lines, counted from 1, both included; empty if there is none."""
        if self._parts:
            begin, end = self._starts[first - 1], self._starts[last]
            return self._parts.map(begin, end, "line", lambda at: bisect_right(self._starts, at))
        found = []
        for number, line in enumerate(self._lines[first - 1 : last], first):
            if definition := _DEFINITION.match(line, 0, _MAX_LINE):
                found.append((definition.start("what"), number, definition["what"]))
        outermost = sorted(found)[:ENTRIES]  # the least indented
        return _listed("line", sorted(entry[1:] for entry in outermost), len(found))

    def in_characters(self, line: int, first: int, last: int) -> str:
        """Return the map of a part of a line, by characters, counted from 1, both included."""
        if not self._parts:
            return ""
        start = self._starts[line - 1]
        return self._parts.map(
            start + first - 1, start + last, "character", lambda at: at - start + 1
        )


@dataclass(frozen=True, slots=True)
class _Parts:
    """The items of an array, or the pairs of an object."""

    starts: list[int]
    """Where they begin in the text."""
    keys: list[str]
    """As they are written; none in an array."""
    values: list[tuple[int, int]]
    """Where their values begin, and where what follows them does."""
    where: str = ""
    """In what they are: ` in "rows" in "data"`."""

    def map(self, begin: int, end: int, unit: str, place: Callable[[int], int]) -> str:
        """Return the map of what begins in a stretch of the text.

        Args:
            place: what is said of a place in the text, counted in units.
        """
        first, behind = bisect_left(self.starts, begin), bisect_left(self.starts, end)
        if first == behind:
            return ""
        if not self.keys:
            several = behind - first > 1
            items = f"items {first + 1}-{behind}" if several else f"item {behind}"
            begin_here = "begin here" if several else "begins here"
            return f"{items} of {len(self.starts)}{self.where} {begin_here}"
        found = [
            (place(self.starts[number]), self.keys[number])
            for number in range(first, behind)
            if _PLAIN_KEY.fullmatch(self.keys[number])
        ]
        listed = _listed(unit, found[:ENTRIES], behind - first)
        return listed and listed + self.where


def _listed(unit: str, entries: Sequence[tuple[int, str]], count: int) -> str:
    named = ", ".join(f"{place} {what}" for place, what in entries)
    more = count - len(entries)
    return f"{unit} {named}{f' and {more} more' if more else ''}" if entries else ""


def _parts_of(text: str) -> _Parts | None:
    """Return the parts of a JSON text, or of what most of it is; None if it is none."""
    try:
        found, end = _parts_at(text, _skip(text, 0), "")
        if _skip(text, end) != len(text):
            return None
        for _ in range(_MAX_DEPTH):
            inner = _main_part(text, found)
            if inner is None:
                break
            found = inner
        return found
    except (ValueError, RecursionError):
        return None


def _main_part(text: str, parts: _Parts) -> _Parts | None:
    """Return the parts of that part which takes three quarters of the room; None if none does."""
    room = sum(end - begin for begin, end in parts.values)
    for number, (begin, end) in enumerate(parts.values):
        if 4 * (end - begin) > 3 * room and text[begin] in _CLOSING:
            name = parts.keys[number] if parts.keys else f"item {number + 1}"
            if not parts.keys or _PLAIN_KEY.fullmatch(name):
                return _parts_at(text, begin, f" in {name}{parts.where}")[0]
    return None


def _parts_at(text: str, at: int, where: str) -> tuple[_Parts, int]:
    """Return the parts of the array or object at a place, and where what follows it stands.

    Raises:
        ValueError: there is none, or it has more than `_MAX_PARTS`.
    """
    closing = _CLOSING.get(text[at : at + 1])
    parts = _Parts([], [], [], where)
    follows = closing and ","
    while follows == ",":
        begin = _skip(text, at + 1)
        parts.starts.append(begin)
        if closing == "}":
            begin = _skip(text, _key(text, begin, parts.keys) + 1)
        end = _value(text, begin)
        parts.values.append((begin, end))
        at = _skip(text, end)
        follows = text[at : at + 1]
    if follows != closing or not closing or len(parts.starts) > _MAX_PARTS:
        raise ValueError("no array or object, or one of too many parts")
    return parts, at + 1


def _key(text: str, at: int, keys: list[str]) -> int:
    """Add the key at a place, and return where its colon stands."""
    end = _value(text, at)
    keys.append(text[at:end])
    colon = _skip(text, end)
    if text[at] != '"' or text[colon : colon + 1] != ":":
        raise ValueError("no key")
    return colon


def _value(text: str, at: int) -> int:
    """Return where what follows the value at a place stands."""
    return _VALUES.raw_decode(text, at)[1]


def _skip(text: str, at: int) -> int:
    """Return where white space ends."""
    found = _SPACE.match(text, at)
    assert found
    return found.end()
