"""How well units of a text fit a query, and what that says of the units beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["Ranker", "best_first", "in_context", "shares"]

_BESIDE = 0.1
"""What a unit gets of the scores of each of the two beside it."""
_AROUND = 0.3
"""What a unit gets of the best score in its block."""


class Ranker(Protocol):
    """Says how well units fit a query. It is deterministic."""

    def score(self, query: str, units: Sequence[str]) -> Sequence[float]:
        """Return a score for each unit: 0 where nothing speaks for it, never less.

        Args:
            units: what a text was split into, in its order and joined the text.
        """
        ...


def in_context(units: Sequence[str], scores: Sequence[float]) -> list[float]:
    """Return scores that count what stands around a unit, too.

    A sentence that answers a question often shares no word with it, but stands beside one that
    does, or under a heading that does: "It opened in 1894." So a unit gets some of the scores beside
    it, and some of the best in its block, which empty lines part from others. The two weights were
    chosen on questions other than those that `perf filters` asks.
    """
    padded = [0.0, *scores, 0.0]
    beside = [before + after for before, after in zip(padded, padded[2:], strict=False)]
    return [
        score + _BESIDE * near + _AROUND * best
        for score, near, best in zip(scores, beside, _best_in_block(units, scores), strict=True)
    ]


def best_first(scores: Sequence[float]) -> list[int]:
    """Return the places of scores, the highest first, and of equal ones the first."""
    return sorted(range(len(scores)), key=lambda place: (-scores[place], place))


def shares(scores: Sequence[float]) -> list[float]:
    """Return scores as shares of the highest."""
    best = max(scores, default=0.0)
    return [score / best if best else 0.0 for score in scores]


def _best_in_block(units: Sequence[str], scores: Sequence[float]) -> list[float]:
    best: list[float] = []
    block: list[float] = []
    for unit, score in zip(units, scores, strict=True):
        block.append(score)
        if unit[len(unit.rstrip()) :].count("\n") > 1:
            best += [max(block)] * len(block)
            block = []
    return best + [max(block, default=0.0)] * len(block)
