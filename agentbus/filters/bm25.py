"""Okapi BM25 over the units of one text, with feedback.

S. Robertson and H. Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", Foundations
and Trends in Information Retrieval 3(4), 2009; with the inverse document frequency that is never
below 0, as Lucene has it. Feedback: J. Rocchio, "Relevance Feedback in Information Retrieval", 1971,
with the best units taken for relevant ones.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import log
from typing import Final

from .rank import best_first, in_context, shares

__all__ = ["BM25"]

_K1: Final = 1.2
_B: Final = 0.75
_RELEVANT: Final = 2
"""Units whose words are looked for, too."""
_TOLD: Final = 0.5
"""What their words count beside the query's own; chosen on every second question of `perf filters`."""
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff"
)
"""Letters of scripts without spaces between words, and of Korean, whose words take many endings."""
_WORD = re.compile(rf"([{_UNSPACED}]+)|[^\W{_UNSPACED}]+")
_INNER = re.compile("_|[a-z0-9][A-Z]|[A-Z][A-Z][a-z]")
"""Stands only in words of several parts."""
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W_A-Z]+")
_STOP = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been by did do does for from had has have he her his how in is it its"
        " not of on or she that the their they this to was were what when where which who whom whose"
        " why with",
    )
)
"""In a text of few units these can be rare, and then would count much."""


class BM25:
    """Ranks units by the query's words in them, the rarer in the text the better.

    Then words of the two best units count half as much as the query's own: what a question leads to
    is often said of a name that the question does not know.
    """

    def score(self, query: str, units: Sequence[str]) -> list[float]:
        """Return the scores; 0 for all where no unit has a word of the query."""
        texts = [Counter(_terms(unit)) for unit in units]
        asked = dict.fromkeys(_terms(query), 1)
        own = shares(_okapi(asked, texts))
        if not any(own):
            return own
        told: Counter[str] = Counter()
        for place in best_first(in_context(units, own))[:_RELEVANT]:
            told.update(term for term in texts[place] if term not in asked)
        more = shares(_okapi(told, texts))
        return [one + _TOLD * other for one, other in zip(own, more, strict=True)]


def _okapi(asked: Mapping[str, int], texts: Sequence[Counter[str]]) -> list[float]:
    """Return how well each text fits words that count so much each. Takes linear time."""
    having = Counter(term for counts in texts for term in counts if term in asked)
    weights = {
        term: asked[term] * log(1 + (len(texts) - n + 0.5) / (n + 0.5))
        for term, n in having.items()
    }
    lengths = [counts.total() for counts in texts]
    mean = sum(lengths) / max(1, len(texts)) or 1.0
    scores: list[float] = []
    for counts, length in zip(texts, lengths, strict=True):
        damping = _K1 * (1 - _B + _B * length / mean)
        # In the order of the text's words: sums of floats depend on it.
        scores.append(
            sum(
                weights[term] * n * (_K1 + 1) / (n + damping)
                for term, n in counts.items()
                if term in weights
            )
        )
    return scores


def _terms(text: str) -> Iterator[str]:
    """Yield the stems of a text's words; of words without spaces between them, pairs of letters.

    Names of programs yield their parts, too: `tcp_keepalive_time` and `TcpKeepalive` are found by
    what people call them.
    """
    has_parts = _INNER.search(text) is not None
    for found in _WORD.finditer(text):
        word = found[0].casefold()
        if found[1] and len(word) > 1:
            yield from map("".join, pairwise(word))
        elif word not in _STOP:
            yield _stem(word)
            if has_parts and _INNER.search(found[0]):
                parts = (part.casefold() for part in _PARTS.findall(found[0]))
                yield from (_stem(part) for part in parts if part not in _STOP)


def _stem(word: str) -> str:
    """Take the commonest English endings off: a plural's s, -ed, -ing, then a last e."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 5 and word.endswith("ing"):
        word = word[:-3]
    elif len(word) > 4 and word.endswith("ed"):
        word = word[:-2]
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    return word[:-1] if len(word) > 3 and word.endswith("e") else word
