"""Parts of one text: by lines, by characters, and the lines that hold given words.

Lines are what stands between "\\n"s, counted from 1 as characters are. All takes time linear in
the text, and nothing from outside is read as a pattern.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple

from ..errors import MisuseError

__all__ = [
    "SEARCH_LIMIT",
    "SEARCH_LINES",
    "SEARCH_WORDS",
    "FetchStatus",
    "Fetched",
    "FoundLine",
    "Searched",
    "excerpt",
    "search_lines",
]

SEARCH_LIMIT = 20
"""Lines that a search gives, if nothing is said."""
SEARCH_LINES = 1000
"""Lines that a search may give."""
SEARCH_WORDS = 16
"""Words of one search."""

_BLOCK = 4096
"""Characters that are looked at at once, on the way to a line."""


class FetchStatus(StrEnum):
    """What came of a reference."""

    FOUND = "found"
    EXPIRED = "expired"
    """Nothing that is kept has this name, and not all is kept that a summary or a new version in the
    context stands for: it may have stood there."""
    NEVER = "never"
    """All is at hand that ever stood in the context, and nothing there has this name."""
    FORBIDDEN = "forbidden"
    """It is there, and not for this reader."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A part of a text that was asked for by reference."""

    status: FetchStatus
    text: str = ""
    """Verbatim; empty too where a range begins behind the end."""
    lines: tuple[int, int] = (0, 0)
    """The first and the last line that `text` is of, wholly or in part; 0 where it is of none."""
    characters: tuple[int, int] = (0, 0)
    """The first and the last character; of an empty line, the last is the one before it."""
    total_lines: int = 0
    total_characters: int = 0


class FoundLine(NamedTuple):
    """A line that holds what was searched for."""

    line: int
    text: str
    character: int
    """The line's first character, counted in the whole text."""
    place: int
    """Where in the line the first of the words stands: an index."""


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search in a text found."""

    status: FetchStatus
    """Whether the text was there to be searched; `lines` may be empty even so."""
    lines: tuple[FoundLine, ...] = ()
    more: bool = False
    """There are more such lines than were asked for."""


def excerpt(
    text: str, lines: tuple[int, int] | None = None, characters: tuple[int, int] | None = None
) -> Fetched:
    """Return a range of a text, or the whole of it; with both, characters counted in the lines.

    Raises:
        MisuseError: it is no range.
    """
    for asked in (lines, characters):
        if asked is not None:
            _check_range(asked)
    if lines is not None:
        found = _by_lines(text, *lines)
        if characters is None or found.lines == (0, 0):
            return found
        before, first, last = found.characters[0] - 1, *characters
        end = min(before + last, found.characters[1])
        return (
            _by_characters(text, before + first, end) if before + first <= end else _nothing(text)
        )
    if characters is not None:
        return _by_characters(text, *characters)
    return _part(text, 0, len(text), (1, _count_lines(text)))


def search_lines(text: str, query: str, limit: int = SEARCH_LIMIT) -> Searched:
    """Return the first lines that hold all words of a query, in capital letters or not.

    Raises:
        MisuseError: the query is no text, has no words, or more than `SEARCH_WORDS`, or the limit
            is not from 1 to `SEARCH_LINES`.
    """
    if not isinstance(query, str):
        raise MisuseError(f"a search takes words, not {type(query).__name__}")
    words = list(dict.fromkeys(query.casefold().split()))
    if not 1 <= len(words) <= SEARCH_WORDS:
        raise MisuseError(f"a search takes 1 to {SEARCH_WORDS} words, not {len(words)}")
    if not (isinstance(limit, int) and 1 <= limit <= SEARCH_LINES):
        raise MisuseError(f"a search gives 1 to {SEARCH_LINES} lines, not {limit!r:.80}")
    found = list(islice(_found(text, words), limit + 1))
    return Searched(FetchStatus.FOUND, tuple(found[:limit]), more=len(found) > limit)


def _check_range(asked: Any) -> None:
    is_pair = isinstance(asked, tuple | list) and len(asked) == 2
    if not (is_pair and all(isinstance(number, int) for number in asked)):
        raise MisuseError(f"a range is its first and its last, as in (3, 12), not {asked!r:.80}")
    if not 1 <= asked[0] <= asked[1]:
        raise MisuseError(f"a range has a first from 1 on and a last not before it, not {asked}")


def _by_lines(text: str, first: int, last: int) -> Fetched:
    total = _count_lines(text)
    if first > total:
        return _nothing(text)
    start = _line_start(text, 0, first - 1)
    if last >= total:
        return _part(text, start, len(text), (first, total))
    return _part(text, start, _line_start(text, start, last - first + 1) - 1, (first, last))


def _by_characters(text: str, first: int, last: int) -> Fetched:
    if first > len(text):
        return _nothing(text)
    start, end = first - 1, min(last, len(text))
    line = text.count("\n", 0, start) + 1
    return _part(text, start, end, (line, line + text.count("\n", start, end - 1)))


def _part(text: str, start: int, end: int, lines: tuple[int, int]) -> Fetched:
    """Return a text from an index up to another one."""
    characters = (start + 1, end)
    return Fetched(
        FetchStatus.FOUND, text[start:end], lines, characters, _count_lines(text), len(text)
    )


def _nothing(text: str) -> Fetched:
    return Fetched(FetchStatus.FOUND, total_lines=_count_lines(text), total_characters=len(text))


def _count_lines(text: str) -> int:
    return text.count("\n") + 1


def _line_start(text: str, start: int, further: int) -> int:
    """Return where a line begins, so many lines further than the one that holds `start`.

    There is such a line.
    """
    while further:
        count = text.count("\n", start, start + _BLOCK)
        if count < further:
            further -= count
            start += _BLOCK
            continue
        for _ in range(further):
            start = text.index("\n", start) + 1
        break
    return start


def _found(text: str, words: Sequence[str]) -> Iterator[FoundLine]:
    """Yield the lines that hold all words."""
    first, *others = words
    line = character = 1
    for block in _blocks(text):
        folded = block.casefold()  # which has the same lines
        if not all(word in folded for word in words):
            line += _count_lines(block)
            character += len(block) + 1
            continue
        for whole, low in zip(block.split("\n"), folded.split("\n"), strict=True):
            if first in low and all(word in low for word in others):
                place = min(low.index(word) for word in words)
                yield FoundLine(line, whole, character, _unfolded(whole, place, len(low)))
            line += 1
            character += len(whole) + 1


def _blocks(text: str) -> Iterator[str]:
    """Yield a text in pieces of whole lines, without the line ends between them."""
    start = 0
    while start <= len(text):
        end = text.find("\n", start + _BLOCK)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end + 1


def _unfolded(line: str, place: int, folded_length: int) -> int:
    """Return where in a line the character stands that is at a place of the folded line.

    Folding makes one character or more of each.
    """
    if folded_length == len(line):
        return place
    return bisect_right(range(1, len(line)), place, key=lambda end: len(line[:end].casefold()))
