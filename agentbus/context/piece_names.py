"""Names of pieces by what they say, so that a reader finds them without labels.

    "import pygame"
    "According to"...
    ..."retries = 5"

A piece is named by the first of its lines that begins as no line of a piece before it. Of the fixed
`LENGTHS` the first is taken at which it has such a line. Dots tell where it goes on: before the
quotes if that is not the piece's first line, after them if the line is longer. So a name is short,
stays what it is whatever is given later, and leads to one piece: the one where a line first begins
so. A language model finds text again by what it says; it would have to count for a number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

__all__ = ["LENGTHS", "NAME", "SAYING", "PieceNames"]

LENGTHS: Final = (12, 24, 48)
"""Characters of a line that a name may quote, not counting white space around it."""
SAYING: Final = 6
"""So many of them are letters or digits: brackets and rulers say nothing."""
NAME: Final = rf'(?:\.\.\.)?"(?:[^"\\]|\\.){{1,{6 * LENGTHS[-1]}}}"(?:\.\.\.)?'
"""What a name looks like, as a regular expression."""

_CUT: Final = "\n"
"""At the end of a beginning that is not the whole line; no line has it."""


class PieceNames:
    """The names of pieces, append-only."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._pieces: dict[str, int] = {}
        self._begun: set[str] = set()
        """How the lines of all pieces begin, at each length."""

    def add(self, lines: Iterable[tuple[int, str]]) -> str:
        """Return the name of the next piece; empty if it has none.

        Args:
            lines: those of the piece that no piece before has, and their indexes; no marks.
        """
        starts = [(index, line.strip()[: LENGTHS[-1] + 1]) for index, line in lines]
        named = (
            _name(index, begun)
            for length in LENGTHS
            for index, start in starts
            if self._is_new(begun := _beginning(start, length))
        )
        name = next(named, "")
        self._names.append(name)
        if name:
            self._pieces[name] = len(self._names)
        self._begun.update(_beginning(start, length) for _, start in starts for length in LENGTHS)
        return name

    def name(self, piece: int) -> str:
        """Return the name of a piece, by its number from 1."""
        return self._names[piece - 1]

    def find(self, name: str) -> int:
        """Return the number of the piece that has a name; 0 if there is none."""
        return self._pieces.get(name, 0)

    def _is_new(self, begun: str) -> bool:
        return begun not in self._begun and sum(map(str.isalnum, begun)) >= SAYING


def _beginning(start: str, length: int) -> str:
    return start if len(start) <= length else start[:length] + _CUT


def _name(index: int, begun: str) -> str:
    """Write a name: a JSON string, so that quotes and brackets in it are no others' affair."""
    before, after = "..." if index else "", "..." if begun.endswith(_CUT) else ""
    return f"{before}{json.dumps(begun.removesuffix(_CUT), ensure_ascii=False)}{after}"
