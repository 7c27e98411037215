"""Texts in units that can be left out one by one: sentences of prose, other lines as they are.

Every character is in one unit, so units joined are the text. White space and empty lines belong to
the unit before them. A unit is at most `LONGEST_UNIT` characters long.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

__all__ = ["LONGEST_UNIT", "units_of"]

LONGEST_UNIT: Final = 1000
"""Characters; what is longer is cut, after white space where there is some."""

_WRAPPED = 40
"""Characters of a line of prose, at least, for the next one to go on with its sentence."""
_LETTERS = 0.8
"""Share of letters and spaces in prose, at least; all signs beyond ASCII count as letters."""
_WORD = 12
"""Characters looked at for the word before a full stop; longer ones are no abbreviations."""
_END = re.compile(
    # One run of signs that end a sentence, what closes after them, then white space and what
    # begins next. Scripts without spaces need none.
    r"(?<![.!?…])[.!?…]++[\"'”’»)\]]*+(?:\[\d{1,3}\])*+\s++(?=[\"'“‘«(\[¿¡]*+[^\s])"
    r"|(?<![。！？])[。！？]++[”’」』）]*+\s*+"
    r"|[।۔؟]\s++"
)
_SIGNS = re.compile(r"[\x00-\x1f!-@\[-`{-\x7f]")
"""ASCII but letters and spaces."""
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_OPENERS = "\"'“‘«([¿¡"
_TITLES = re.compile(
    r"mrs?|ms|dr|prof|st|mt|[js]r|messrs|rev|hon|gen|col|lt|sgt|capt|cmdr|adm|maj|gov|sen|rep|pres"
    r"|nos?|vs|figs?|eq|sec|vol|pp?|eds?|cf|ca|approx|al|dept|univ|bros|op"
    r"|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec",
    re.IGNORECASE,
)
"""Words whose full stop does not end a sentence."""
_INITIALS = re.compile(r"[^\W\d_](?:\.[^\W\d_])*")
"""What comes before the last full stop of `K.`, `U.S.` or `a.m.`"""
_BEGINS = re.compile(r"(?:An?|As|At|But|By|For|He|However|I|If|In|It|On|She|The|They|This|We)\b")
"""Words that begin a sentence after such a full stop; what else is there can be a name."""
_GO_ON = (",", ";", ":", ")", "]")


def units_of(text: str) -> list[str]:
    """Split a text; the units joined are the text. Takes time linear in it."""
    return [piece for block in _blocks(text) for unit in _sentences(block) for piece in _cut(unit)]


def _blocks(text: str) -> Iterator[str]:
    """Yield lines, each with the empty lines after it; those that a sentence runs over as one."""
    block: list[str] = []
    above = ""
    for line in _LINE.findall(text):
        is_empty = not line.strip()
        if above and not is_empty and not _goes_on(block[-1], line):
            yield "".join(block)
            block = []
        block.append(line)
        above = above if is_empty else line
    if block:
        yield "".join(block)


def _goes_on(line: str, below: str) -> bool:
    """Say whether the line below goes on with the sentence of this one."""
    end = line.rstrip()[-1:]
    return (
        below[0].islower()
        and len(line) >= _WRAPPED
        and (end.isalpha() or end == ",")
        and _is_prose(line)
    )


def _is_prose(text: str) -> bool:
    some = text[:LONGEST_UNIT]
    return len(some) - len(_SIGNS.findall(some)) >= _LETTERS * len(some)


def _sentences(block: str) -> Iterator[str]:
    start = 0
    if _is_prose(block):
        for found in _END.finditer(block):
            if _ends(block, start, found):
                yield block[start : found.end()]
                start = found.end()
    if start < len(block):
        yield block[start:]


def _ends(block: str, start: int, found: re.Match[str]) -> bool:
    """Say whether a sentence that begins at `start` ends at a sign that could end it."""
    below = block[found.end() : found.end() + _WORD].lstrip(_OPENERS)
    if below[:1].islower() or below[:1] in _GO_ON:
        return False
    if block[found.start() : found.start() + 2].rstrip() != ".":
        return True
    words = block[max(start, found.start() - _WORD) : found.start()].split()
    word = words[-1].lstrip(_OPENERS) if words else ""
    if _INITIALS.fullmatch(word):
        return _BEGINS.match(below) is not None
    is_number_of_item = word.isdigit() and len(words) == 1 and found.start() - start <= _WORD
    return not (is_number_of_item or _TITLES.fullmatch(word))


def _cut(unit: str) -> Iterator[str]:
    """Yield a unit in pieces of the longest length at most."""
    start = 0
    while len(unit) - start > LONGEST_UNIT:
        end = unit.rfind(" ", start, start + LONGEST_UNIT) + 1 or start + LONGEST_UNIT
        yield unit[start:end]
        start = end
    yield unit[start:]
