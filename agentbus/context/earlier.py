"""What a receiver was given so far, as the forms see it that refer back to it.

A piece is a text as this receiver was really given it: marks and all, as it stands in its model's
prompt. Marks refer to a piece by what it says, as `piece_names` has it: no piece needs a label, which
would make it longer. A name never changes, since it depends on the pieces before alone: a prompt
only grows at its end.

Lines are counted in the piece as given, from 1, as its reader counts them. So whatever a reference
covers stands written out in the prompt, character for character, and reading needs nothing that this
receiver has not. Marks are never covered: a line that looks like one, real or quoted, is held as no
line at all (see `UNQUOTABLE`), whence no reference leads to another reference.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from .piece_names import PieceNames

__all__ = [
    "ALONE",
    "ANY_MARK",
    "HELD_CHARACTERS",
    "HELD_LINES",
    "LONGEST",
    "PLACES",
    "RUN_LINES",
    "UNQUOTABLE",
    "Earlier",
    "is_mark",
    "quote",
    "run_key",
    "unquote",
]

RUN_LINES = 3
"""So many lines on end are looked up as one."""
ALONE = 100
"""Characters of a line that is looked up alone, too."""
PLACES = 8
"""At how many places, the earliest, a run of lines is looked up."""
HELD_CHARACTERS = 1 << 24
"""Characters of different lines held for one receiver; more than any model reads."""
HELD_LINES = 200_000
"""Lines held for one receiver."""
LONGEST = 1 << 26
"""Characters of the longest text that is written or read with references."""
UNQUOTABLE = 0
"""The number of each line that looks like a mark, or is not held."""

ANY_MARK = "[line ]"
"""A line in the place of any that is not held."""

_QUOTED = "[quoted] "
_MARKS = ("[line ", "[lines ", "[after line ", "[before line ")
_HEADS = ('["', '[..."')
_HEAD_ENDS = (" again]", " again, except:]")
_LINE_BITS = 32
_KEY_BITS = 24


def is_mark(line: str) -> bool:
    """Whether a line is a mark of this layer, or looks so like one that it must be quoted."""
    if line[:1] != "[" or line[-1] != "]":
        return False
    start = 0
    while line.startswith(_QUOTED, start):
        start += len(_QUOTED)
    if line.startswith(_HEADS, start):
        return line.endswith(_HEAD_ENDS)  # unlike an array of JSON
    return line.startswith(_MARKS, start)


def quote(line: str) -> str:
    """Return a line of content as it stands in a text with marks."""
    return _QUOTED + line if is_mark(line) else line


def unquote(line: str) -> str:
    """Return the content of a line of a text with marks, which is no mark itself."""
    return line[len(_QUOTED) :] if line.startswith(_QUOTED) and is_mark(line) else line


def run_key(numbers: Sequence[int], start: int) -> int:
    """Return what the run of lines at `start` is looked up by; 0 if there is none to look up.

    `numbers` are the lines' numbers in an `Earlier`; a long line's key is its number.
    """
    if start < 0 or start + RUN_LINES > len(numbers):
        return 0
    key = 0
    for number in numbers[start : start + RUN_LINES]:
        if number == UNQUOTABLE:
            return 0
        key = key << _KEY_BITS | number
    return key


class _Book:
    """Pieces and their index, append-only; several `Earlier` read it, each up to its own end."""

    def __init__(self) -> None:
        self.lines = [ANY_MARK]
        self.numbers: dict[str, int] = {}
        self.pieces: list[array[int]] = []
        self.names = PieceNames()
        self.places: dict[int, tuple[int, ...]] = {}
        self.held_lines = 0
        self.held_characters = 0

    def add(self, lines: Sequence[str]) -> None:
        """Add a piece; without its lines if they do not fit."""
        new = dict[str, int]()
        for index, line in enumerate(lines):
            if line not in self.numbers and not is_mark(line):
                new.setdefault(line, index)
        characters = self.held_characters + sum(map(len, new))
        if characters > HELD_CHARACTERS or self.held_lines + len(lines) > HELD_LINES:
            lines, new, characters = (), {}, self.held_characters
        self.held_characters = characters
        self.held_lines += len(lines)
        for line in new:
            self.numbers[line] = len(self.lines)
            self.lines.append(line)
        piece = array("I", [self.numbers.get(line, UNQUOTABLE) for line in lines])
        self.pieces.append(piece)
        if self.names.add((index, line) for line, index in new.items()):
            self._index_lines(piece, len(self.pieces) << _LINE_BITS)

    def _index_lines(self, piece: array[int], base: int) -> None:
        for start, number in enumerate(piece):
            self._index(run_key(piece, start), base + start)
            if len(self.lines[number]) >= ALONE:
                self._index(number, base + start)

    def _index(self, key: int, place: int) -> None:
        known = self.places.get(key, ())
        if key and len(known) < PLACES:
            self.places[key] = (*known, place)

    def fork(self, count: int) -> _Book:
        other = _Book()
        for piece in self.pieces[:count]:
            other.add([self.lines[number] for number in piece])
        return other


class Earlier:
    """The pieces that one receiver was given before some moment: a frozen value.

    To add a piece takes time linear in that piece: all values that grew out of one another share
    one index and know how far each may read in it. Only where two pieces follow the same value is
    the index built anew for the second.

    Any thread may read a value at any time; but `given`, see there.

    It holds at most `HELD_LINES` and `HELD_CHARACTERS`. A piece that does not fit has no name, and no
    name heeds how its lines begin. Nothing refers to a piece without a name. What was held stays,
    as references must.
    """

    __slots__ = ("_book", "_count")

    def __init__(self) -> None:
        self._book = _Book()
        self._count = 0

    @property
    def count(self) -> int:
        """How many pieces these are; the last one's number, from 1."""
        return self._count

    def given(self, piece: str) -> Earlier:
        """Return the value after one more piece, `piece` being what stands in the prompt.

        It is not thread-safe: of all values that grew out of one another, one at a time.
        """
        after = Earlier()
        at_end = len(self._book.pieces) == self._count
        after._book = book = self._book if at_end else self._book.fork(self._count)
        after._count = self._count + 1
        lines = piece.split("\n")
        if not lines[-1]:
            lines.pop()  # the end of the last line, not one more
        book.add(lines)
        return after

    def number(self, lines: Iterable[str]) -> list[int]:
        """Return lines as numbers, equal where the lines are, to compare with those of pieces."""
        known, fresh = self._book.numbers, dict[str, int]()
        base = HELD_LINES + 1  # more than a held line's number ever is
        numbers = []
        for line in lines:
            number = known.get(line)
            if number is None:
                mark = is_mark(line)
                number = UNQUOTABLE if mark else fresh.setdefault(line, base + len(fresh))
            numbers.append(number)
        return numbers

    def places(self, key: int) -> Iterable[tuple[int, int]]:
        """Yield the piece's number and the index of the line where a key's lines stand, in order."""
        for place in self._book.places.get(key, ()):
            number = place >> _LINE_BITS
            if number > self._count:
                return
            yield number, place & ((1 << _LINE_BITS) - 1)

    def numbers_of(self, piece: int) -> Sequence[int]:
        """Return the numbers of a piece's lines; of none if it was not given or is not held."""
        return self._book.pieces[piece - 1] if 0 < piece <= self._count else ()

    def name(self, piece: int) -> str:
        """Return the name of a piece that `places` led to, as it stands in marks."""
        return self._book.names.name(piece)

    def find(self, name: str) -> int:
        """Return the number of the piece that a name stands for; 0 if none of these has it."""
        piece = self._book.names.find(name)
        return piece if piece <= self._count else 0

    def line(self, number: int) -> str:
        """Return the line that has this number, which is not `UNQUOTABLE`."""
        return self._book.lines[number]
