"""How a folded text is written: its marks, and the first line that tells what they mean.

The explanation is part of the form: it names the marks of this text alone, and by it the text is
read back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from string import ascii_uppercase
from types import MappingProxyType

__all__ = [
    "AGAIN",
    "DEFINED",
    "EXPLAINED",
    "MAX_TEXT",
    "NAME",
    "NAMED",
    "NAMES",
    "OWN",
    "PAIRS",
    "PLAIN",
    "REST",
    "STARTS",
    "TAIL",
    "Marks",
    "again",
    "filled",
]

NAME = "fold/1"
MAX_TEXT = 1 << 26
"""Characters of a text that is folded, or read back."""
PAIRS = ("{}", "<>", "«»", "⟨⟩", "⟦⟧")
"""Brackets around what changes: the first that a text has nowhere."""
STARTS, REST = "Lines start: ", "..."
"""Around what lines start with."""
OWN = "- "
"""Before a line that starts so, and has no name."""
PLAIN = "\\"
"""Before a line that would read as a mark."""
TAIL = "~"
"""In the brackets of a value of which only the end that changed is given."""
DEFINED = re.compile(r"([A-Z]{1,2})(::?) ")
"""A line that is given a name."""
NAMED = re.compile(r"([A-Z]{1,2})(?: |\Z)")
"""Such a line again, where there is one of that name."""
NAMES: tuple[str, ...] = (*ascii_uppercase, *map("".join, product(ascii_uppercase, repeat=2)))
"""Short names."""
AGAIN = re.compile(r"\(the (?:([1-9][0-9]{0,8}) lines|line) above ([1-9][0-9]{0,8}) more times?\)")


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks that a text has."""

    pair: str
    named: bool = False
    """Lines have names."""
    headed: bool = False
    """What lines start with is said once."""
    bare: bool = False
    """Some lines that have names do not start so."""
    copies: bool = False
    """Lines start with a value twice."""
    plain: bool = False
    """Some lines stand behind `PLAIN`."""

    def explained(self) -> str:
        """Return the first line of the text."""
        said = ["[Folded, nothing is lost."]
        if self.named:
            said.append(
                f'"A: " starts a line and names it A, with {self.pair} around what changes; "A x y" '
                f"is that line again with x and y there, = being the value of the A line before."
            )
        if self.headed:
            said.append(self._starts())
        if self.bare:
            said.append('"A:: " names a line that begins otherwise.')
        if self.plain:
            said.append(f"Lines after {PLAIN} are as they are.")
        return " ".join(said) + "]"

    def _starts(self) -> str:
        opening, closing = self.pair[0], self.pair[1]
        which = f'"{OWN}" or a name' if self.named else f'"{OWN}"'
        copy = f", and in {opening}1{closing} the first comes again" if self.copies else ""
        return (
            f'"{STARTS}" tells what each line below begins with that has {which}: its first values '
            f"fill the {self.pair}, = being the value of the line before, only the end that changed "
            f"in {opening}{TAIL}{closing}{copy}."
        )

    def reads_as_mark(self, line: str) -> bool:
        """Say whether a line that stands as it is would be taken for a mark, but for a name."""
        if AGAIN.fullmatch(line) or (self.headed and line.startswith((STARTS, OWN))):
            return True
        return self.named and DEFINED.match(line) is not None


EXPLAINED: Mapping[str, Marks] = MappingProxyType(
    {
        marks.explained(): marks
        for pair, which in product(PAIRS, product((False, True), repeat=5))
        for marks in [Marks(pair, *which)]
    }
)
"""By first line, the marks of a text."""


def again(block: int, times: int) -> str:
    """Say that the last lines come again."""
    lines = "line" if block == 1 else f"{block} lines"
    return f"(the {lines} above {times} more time{'s' if times > 1 else ''})"


def filled(constants: Sequence[str], values: Sequence[str]) -> str:
    """Put values between constants, of which there is one more."""
    text = [constants[0]]
    for value, constant in zip(values, constants[1:], strict=True):
        text += [value, constant]
    return "".join(text)
