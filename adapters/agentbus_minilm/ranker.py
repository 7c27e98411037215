"""Units ranked by words and by meaning together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from agentbus.filters import BM25
from agentbus.filters.rank import best_first, in_context, shares

if TYPE_CHECKING:
    from .embed import Embedder

__all__ = ["MiniLM"]

_MOST: Final = 256
"""Units that are read by the model, those that are best by their words; a text's others count by
words alone. On one core that many sentences take two to three seconds."""


class MiniLM:
    """Adds how alike query and unit are, as the model sees it, to what BM25 says.

    Each is taken as a share of its best in the text.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._words = BM25()

    def score(self, query: str, units: Sequence[str]) -> list[float]:
        """Return the scores."""
        words = self._words.score(query, units)
        read = best_first(in_context(units, words))[:_MOST]
        vectors = self._embedder.embed([query, *(units[place].strip() for place in read)])
        alike = [0.0] * len(units)
        for place, product in zip(read, (vectors[1:] @ vectors[0]).tolist(), strict=True):
            alike[place] = max(0.0, product)
        return [word + meaning for word, meaning in zip(words, shares(alike), strict=True)]
