"""What of a text a query asks for: its best sentences or lines, verbatim and in their order.

    [left out at …; the source is intact: get ctx:ab12cd34]
    … It was called the garden. … The garden has a keeper. …

Where units are left out stands a sign that the text has not; the first line says what the sign means,
and the name of the original. It is short and stands first because a small model answers worse the
more of it stands right before its question.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as count_up

from ..errors import ConfigError
from .bm25 import BM25
from .left_out import signs_mark
from .lossy import Shortened
from .rank import Ranker, best_first, in_context
from .units import units_of

__all__ = ["Extract"]

_SHORT = 200
"""Tokens of a text that is left as it is: what marks take would be much of what is saved."""
_LARGEST = 1 << 22
"""Characters of the largest text: of more, even a share is more than a model reads."""
_TRIES = 2
"""How often units are chosen anew because tokens of the whole are not those of its parts."""
_BM25 = BM25()
_SIGNS = ("…", "[…]")
_NUMBERED_SIGN = re.compile(r"\[…(\d+)\]")


def _nothing(_unit: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Extract:
    """Keeps the units of a text that fit the query best, to a share of its tokens.

    Units that `must_keep` and the best one are kept whatever they take; with the first line they
    alone can exceed the share. A text is left as it is if it has less than 200 tokens, is too
    large, is one JSON value, or has nothing that fits the query.
    """

    keep: float = 0.3
    """Share of the text's tokens that is delivered at most, marks included."""
    ranker: Ranker = _BM25
    must_keep: Callable[[str], bool] = _nothing
    """Says of a unit whether it must stay."""
    name: str = "extract/3"
    """Another ranker, another rule or another share leaves out other units: give it another name."""

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise ConfigError("keep", f"{self.keep} is not between 0 and 1")

    def shorten(
        self, text: str, *, ref: str, query: str, count: Callable[[str], int]
    ) -> Shortened | None:
        """Return what the query asks for; None where nothing does, or nothing is gained."""
        if len(text) > _LARGEST or not query.strip() or _is_json(text):
            return None
        whole = count(text)
        units = units_of(text)
        if whole < _SHORT or len(units) < 2:
            return None
        scores = in_context(units, self.ranker.score(query, units))
        if not any(scores):
            return None
        sign = _sign(text)
        delivery = _Delivery(units, sign, signs_mark(sign, ref))
        kept, taken = self._choose(delivery, scores, int(self.keep * whole), count)
        if taken >= whole:
            return None
        return Shortened(delivery.text(kept), tuple(delivery.left_out(kept)))

    def _choose(
        self,
        delivery: _Delivery,
        scores: Sequence[float],
        budget: int,
        count: Callable[[str], int],
    ) -> tuple[list[bool], int]:
        """Return for each unit whether it is kept, and the tokens that the delivered text takes."""
        units = delivery.units
        ranked = [place for place in best_first(scores) if scores[place]]
        must = [self.must_keep(unit) for unit in units]
        must[ranked[0]] = True
        choice = _Choice(ranked, must, [count(unit) for unit in units], count(delivery.sign + " "))
        room = budget - count(delivery.mark)
        fitting: list[tuple[int, list[bool]]] = []
        for _ in range(_TRIES):
            kept = choice.within(room)
            taken = count(delivery.text(kept))
            if taken <= budget:
                fitting.append((taken, kept))
            room += budget - taken
        if not fitting:
            return must, count(delivery.text(must))
        taken, kept = max(fitting)
        return kept, taken


@dataclass(frozen=True, slots=True)
class _Choice:
    """What choosing units needs to know of them."""

    ranked: Sequence[int]
    """Places of those that can be chosen, the best first."""
    must: Sequence[bool]
    sizes: Sequence[int]
    sign_size: int

    def within(self, room: int) -> list[bool]:
        """Keep what must be, then the best that fit into so many tokens with the signs."""
        kept = [False] * len(self.must)
        room -= self.sign_size
        for place, must in enumerate(self.must):
            if must:
                room -= self._growth(kept, place)
                kept[place] = True
        for place in self.ranked:
            if not kept[place] and (growth := self._growth(kept, place)) <= room:
                room -= growth
                kept[place] = True
        return kept

    def _growth(self, kept: Sequence[bool], place: int) -> int:
        """Return how many tokens more a unit takes, which can close a gap or part one."""
        closed_before = place == 0 or kept[place - 1]
        closed_after = place == len(kept) - 1 or kept[place + 1]
        return self.sizes[place] + self.sign_size * (1 - closed_before - closed_after)


@dataclass(frozen=True, slots=True)
class _Delivery:
    """How a text is written of which some units are left out."""

    units: Sequence[str]
    sign: str
    mark: str
    """The first line."""

    def text(self, kept: Sequence[bool]) -> str:
        parts = [self.mark, "\n"]
        for place, (unit, stays) in enumerate(zip(self.units, kept, strict=True)):
            if stays:
                parts.append(unit)
            elif place + 1 == len(kept) or kept[place + 1]:
                parts.append(self.sign + _space_after(unit))
        return "".join(parts)

    def left_out(self, kept: Sequence[bool]) -> Iterator[tuple[int, int]]:
        """Yield the lines of the text that are not wholly there."""
        line, first, last = 1, 0, 0
        for unit, stays in zip(self.units, kept, strict=True):
            after = line + unit.count("\n")
            if not stays:
                if first and line > last + 1:
                    yield first, last
                    first = 0
                first = first or line
                last = after - unit.endswith("\n")
            line = after
        if first:
            yield first, last


def _space_after(unit: str) -> str:
    """Return what stands between a unit's sign and what follows."""
    space = unit[len(unit.rstrip()) :]
    return "\n" if "\n" in space else space[:1]


def _sign(text: str) -> str:
    """Return a sign that is not in the text."""
    for sign in _SIGNS:
        if sign not in text:
            return sign
    taken = set(_NUMBERED_SIGN.findall(text))
    return next(sign for n in count_up(2) if (sign := f"[…{n}]")[2:-1] not in taken)


def _is_json(text: str) -> bool:
    """Say whether a text looks like one JSON value, of which no part is one; JSON Lines are lines."""
    ends = text.strip()
    line = ends.partition("\n")[0].rstrip()
    return _is_bracketed(ends) and (line == ends or not _is_bracketed(line))


def _is_bracketed(text: str) -> bool:
    return text[:1] + text[-1:] in ("{}", "[]")
