"""Ways to choose sentences that filters are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from types import MappingProxyType

from agentbus.filters.units import units_of

from ..peers import BM25S, HEAD, RANDOM, TAIL
from .questions import Question

__all__ = ["RANKINGS", "Count", "Ranking", "best", "best_text", "cut"]

Count = Callable[[str], int]
"""Tokens of a text."""
Ranking = Callable[[Question, Sequence[str]], Sequence[float]]
"""Returns how good each unit of a question's text is."""


def best(scores: Sequence[float], sizes: Sequence[int], room: int) -> list[int]:
    """Return the places of the best that fit into so many tokens, in the text's order."""
    kept: list[int] = []
    for place in sorted(range(len(scores)), key=lambda place: (-scores[place], place)):
        if sizes[place] <= room:
            kept.append(place)
            room -= sizes[place]
    return sorted(kept)


def best_text(ranking: Ranking, question: Question, room: int, count: Count) -> str:
    """Return the best units of a question's text that fit into so many tokens, as one text."""
    units = units_of(question.text)
    sizes = [count(unit) for unit in units]
    kept = best(ranking(question, units), sizes, room)
    return "".join(units[place] for place in kept).rstrip()


def cut(text: str, room: int, count: Count) -> str:
    """Return as many of a text's first words as fit into so many tokens."""
    words = text.split(" ")
    fitting, too_many = 0, len(words) + 1
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        if count(" ".join(words[:middle])) <= room:
            fitting = middle
        else:
            too_many = middle
    return " ".join(words[:fitting])


def _head(_question: Question, units: Sequence[str]) -> Sequence[float]:
    return range(len(units), 0, -1)


def _tail(_question: Question, units: Sequence[str]) -> Sequence[float]:
    return range(len(units))


def _random(question: Question, units: Sequence[str]) -> Sequence[float]:
    draw = Random(question.name)
    return [draw.random() for _ in units]


def _bm25s(question: Question, units: Sequence[str]) -> Sequence[float]:
    """Rank as the library's documentation shows it, with stop words and stems of English."""
    import bm25s  # `make peers` installs both
    import Stemmer

    words: list[list[str]] = bm25s.tokenize(
        [*units, question.query],
        stopwords="en",
        stemmer=Stemmer.Stemmer("english"),
        return_ids=False,
        show_progress=False,
    )
    index = bm25s.BM25()
    index.index(words[:-1], show_progress=False)
    asked = [word for word in words[-1] if word in index.vocab_dict]
    scores: Sequence[float] = index.get_scores(asked).tolist() if asked else [0.0] * len(units)
    return scores


RANKINGS: Mapping[str, Ranking] = MappingProxyType(
    {HEAD.name: _head, TAIL.name: _tail, RANDOM.name: _random, BM25S.name: _bm25s}
)
"""By the peer's name."""
