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
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from .piece_names import PieceNames

__all__ = [
    "ALONE",
    "ANY_MARK",
    "FORKS",
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
    "run_keys",
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
FORKS = 32
"""Indexes behind one another that are read as one."""
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
    run = numbers[start : start + RUN_LINES]
    if start < 0 or len(run) < RUN_LINES or UNQUOTABLE in run:
        return 0
    one, two, three = run
    return (one << _KEY_BITS | two) << _KEY_BITS | three


def run_keys(numbers: Sequence[int]) -> list[int]:
    """Return `run_key` of each start, of which there are as many as lines."""
    keys = [
        (one << _KEY_BITS | two) << _KEY_BITS | three if one and two and three else 0
        for one, two, three in zip(numbers, numbers[1:], numbers[2:], strict=False)
    ]
    return keys + [0] * (len(numbers) - len(keys))


class _End(NamedTuple):
    """How much there is up to some piece, in the books before, too."""

    pieces: int = 0
    lines: int = 1
    """Different ones that are held; their numbers are less."""
    held_lines: int = 0
    held_characters: int = 0


class _Part(NamedTuple):
    """A book, as far as it is read."""

    book: _Book
    end: _End


class _Book:
    """Pieces and their index, append-only; several `Earlier` read it, each up to its own end.

    Its pieces follow those of other books, of which each is read up to some piece.
    """

    def __init__(self, before: tuple[_Part, ...] = ()) -> None:
        self.before = before
        self.start = self.end = before[-1].end if before else _End()
        self.first_line = self.start.lines if before else 0
        self.lines = [] if before else [ANY_MARK]
        self.numbers: dict[str, int] = {}
        self.pieces: list[array[int]] = []
        self.names = PieceNames(self.start.pieces)
        self.places: dict[int, tuple[int, ...]] = {}

    def add(self, lines: Sequence[str]) -> None:
        """Add a piece; without its lines if they do not fit."""
        new = dict[str, int]()
        for index, line in enumerate(lines):
            if line not in self.numbers and not is_mark(line) and not _number(self.before, line):
                new.setdefault(line, index)
        characters = self.end.held_characters + sum(map(len, new))
        if characters > HELD_CHARACTERS or self.end.held_lines + len(lines) > HELD_LINES:
            lines, new, characters = (), {}, self.end.held_characters
        for number, line in enumerate(new, self.end.lines):
            self.numbers[line] = number
            self.lines.append(line)
        piece = array("I", [self._number(line) for line in lines])
        self.pieces.append(piece)
        self.end = _End(
            self.end.pieces + 1,
            self.end.lines + len(new),
            self.end.held_lines + len(lines),
            characters,
        )
        if self.names.add(((index, line) for line, index in new.items()), self._has_begun):
            self._index_lines(lines, piece)

    def _number(self, line: str) -> int:
        number = self.numbers.get(line)
        return _number(self.before, line) if number is None else number

    def _has_begun(self, start: str) -> bool:
        return any(book.names.has_begun(start, end.pieces) for book, end in self.before)

    def _index_lines(self, lines: Sequence[str], piece: array[int]) -> None:
        base = self.end.pieces << _LINE_BITS
        for start, (line, key) in enumerate(zip(lines, run_keys(piece), strict=True)):
            if key:
                self._index(key, base + start)
            if len(line) >= ALONE and piece[start]:
                self._index(piece[start], base + start)

    def _index(self, key: int, place: int) -> None:
        known = self.places.get(key, ())
        before = sum(1 for _ in _places(self.before, key)) if self.before else 0
        if before + len(known) < PLACES:
            self.places[key] = (*known, place)


def _number(parts: Iterable[_Part], line: str) -> int:
    """Return a line's number, or `UNQUOTABLE`."""
    for book, end in parts:
        number = book.numbers.get(line, UNQUOTABLE)
        if UNQUOTABLE < number < end.lines:
            return number
    return UNQUOTABLE


def _places(parts: Iterable[_Part], key: int) -> Iterator[tuple[int, int]]:
    for book, end in parts:
        for place in book.places.get(key, ()):
            number = place >> _LINE_BITS
            if number > end.pieces:
                break
            yield number, place & ((1 << _LINE_BITS) - 1)


class Earlier:
    """The pieces that one receiver was given before some moment: a frozen value.

    To add a piece takes time linear in that piece: all values that grew out of one another share
    one index, and know how far each may read in it. Where several pieces follow the same value,
    each but the first begins an index of its own behind the shared one; of `FORKS` such indexes on
    end, one is made anew.

    Any thread may read a value at any time; but `given`, see there.

    It holds at most `HELD_LINES` and `HELD_CHARACTERS`. A piece that does not fit has no name, and no
    name heeds how its lines begin. Nothing refers to a piece without a name. What was held stays,
    as references must.
    """

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        book = _Book()
        self._parts: tuple[_Part, ...] = (_Part(book, book.end),)

    @property
    def count(self) -> int:
        """How many pieces these are; the last one's number, from 1."""
        return self._parts[-1].end.pieces

    def given(self, piece: str) -> Earlier:
        """Return the value after one more piece, `piece` being what stands in the prompt.

        It is not thread-safe: of all values that grew out of one another, one at a time.
        """
        book, end = self._parts[-1]
        if book.end != end and len(self._parts) == FORKS:
            self._rebuild()
            book, end = self._parts[-1]
        if book.end != end:
            book = _Book(self._parts)
        lines = piece.split("\n")
        if not lines[-1]:
            lines.pop()  # the end of the last line, not one more
        book.add(lines)
        after = Earlier.__new__(Earlier)
        after._parts = (*book.before, _Part(book, book.end))
        return after

    def _rebuild(self) -> None:
        """Read in one book, in which all has the numbers that it had."""
        book = _Book()
        for piece in range(1, self.count + 1):
            book.add([self.line(number) for number in self.numbers_of(piece)])
        self._parts = (_Part(book, book.end),)

    def number(self, lines: Iterable[str]) -> list[int]:
        """Return lines as numbers, equal where the lines are, to compare with those of pieces."""
        parts, fresh = self._parts, dict[str, int]()
        base = HELD_LINES + 1  # more than a held line's number ever is
        numbers = []
        for line in lines:
            number = _number(parts, line)
            if number == UNQUOTABLE and not is_mark(line):
                number = fresh.setdefault(line, base + len(fresh))
            numbers.append(number)
        return numbers

    def places(self, key: int) -> Iterable[tuple[int, int]]:
        """Yield the piece's number and the index of the line where a key's lines stand, in order."""
        return _places(self._parts, key)

    def known(self, keys: AbstractSet[int]) -> AbstractSet[int]:
        """Return at least those keys that `places` leads somewhere for."""
        return {key for book, _ in self._parts for key in book.places.keys() & keys}

    def numbers_of(self, piece: int) -> Sequence[int]:
        """Return the numbers of a piece's lines; of none if it was not given or is not held."""
        if not 0 < piece <= self.count:
            return ()
        book = self._book_of(piece)
        return book.pieces[piece - book.start.pieces - 1]

    def name(self, piece: int) -> str:
        """Return the name of a piece that `places` led to, as it stands in marks."""
        return self._book_of(piece).names.name(piece)

    def find(self, name: str) -> int:
        """Return the number of the piece that a name stands for; 0 if none of these has it."""
        found = ((book.names.find(name), end.pieces) for book, end in self._parts)
        return next((piece for piece, last in found if 0 < piece <= last), 0)

    def line(self, number: int) -> str:
        """Return the line that has this number, which is not `UNQUOTABLE`."""
        for book, _ in reversed(self._parts):
            if number >= book.first_line:
                break
        return book.lines[number - book.first_line]

    def _book_of(self, piece: int) -> _Book:
        for book, _ in reversed(self._parts):
            if piece > book.start.pieces:
                break
        return book
