"""Questions with long contexts: the text that holds the answer, among others that do not.

XQuAD: a paragraph among the others of its article. Natural Questions: a document among others of the
file. Both in an order drawn from the question's name. HotpotQA: its ten paragraphs as they are, of
which two are needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

from agentbus.filters.units import units_of

from .logs import read_lines
from .recorded import say

__all__ = ["FILES", "HOTPOT", "NQ", "OTHERS", "XQUAD", "Question", "Span", "read_questions"]

XQUAD = "squad_xquad_en.jsonl"
NQ = "nq_long_answer.jsonl"
HOTPOT = "hotpotqa_distractor.jsonl"
OTHERS = 19
"""Documents of Natural Questions beside the one that holds the answer."""

_ARTICLES = (
    "AAAAABBBBBCCCCCDDDDDEEEEEFFFFFGGGGGHHHHHIIIIIJJJJJKKKKKLLLLLMNOPOOOQQOQQQMRRRRNRNSMSMPSSSMP"
    "TUTUTTUTVUNNUPPWWVXXXVXYVXVWZZaWaaZZbbaabbWbZcccccdddddeeee"
)
"""Which paragraphs of XQuAD are of one article, in the file's order, by upstream's titles; the file
does not say so itself."""
_JOINT = "\n\n"

Span = tuple[int, int]
"""Where something begins in a text, and where it has ended."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question, with the documents that its reader is given."""

    name: str
    query: str
    answer: str
    """Word for word as in the documents, but for HotpotQA's comparisons."""
    documents: tuple[str, ...]
    places: tuple[Span, ...]
    """Where answers stand in `text`, in the documents that count; none where the answer is a
    comparison's."""
    evidence: tuple[str, ...]
    """The sentences that give the answer: HotpotQA's supporting facts; of the others one that holds
    the answer, of several the one with most of the question's words."""

    @property
    def text(self) -> str:
        """The documents as one text."""
        return _JOINT.join(self.documents)


def read_questions(path: Path, others: int = OTHERS) -> list[Question]:
    """Read one of `FILES`. The same arguments give the same questions."""
    return list(_READERS[path.name](list(read_lines(path)), others))


def _xquad(rows: Sequence[Any], _others: int) -> Iterator[Question]:
    """Yield questions; a paragraph that is alone in its article is left out."""
    if len(rows) != len(_ARTICLES):
        say(f"skipped {XQUAD}: not the file whose articles are known")
        return
    articles = list(zip(rows, _ARTICLES, strict=True))
    for row, article in articles:
        same = [other["context"] for other, its in articles if its == article and other is not row]
        if same:
            yield _among(row, same)


def _natural(rows: Sequence[Any], others: int) -> Iterator[Question]:
    for row in rows:
        rest = [other["context"] for other in rows if other is not row]
        yield _among(row, Random(row["id"]).sample(rest, min(others, len(rest))))


def _among(row: Mapping[str, Any], others: Sequence[str]) -> Question:
    own = row["context"]
    documents = [own, *others]
    Random(row["id"]).shuffle(documents)
    answer = next((one for one in row["answers"] if one in own), row["answers"][0])
    places = _places(documents, row["answers"], documents.index(own))
    sentences = _holding(own, answer) or [own]
    best = max(sentences, key=lambda one: len(_words(row["question"]) & _words(one)))
    return Question(row["id"], row["question"], answer, tuple(documents), tuple(places), (best,))


def _hotpot(rows: Sequence[Any], _others: int) -> Iterator[Question]:
    for row in rows:
        documents = row["context"].split(_JOINT)
        by_title = {one.partition("\n")[0]: number for number, one in enumerate(documents)}
        facts = row["supporting_facts"]
        holding = sorted({by_title[title] for title, _ in facts})
        evidence = [_sentence(documents[by_title[title]], number) for title, number in facts]
        places = [span for number in holding for span in _places(documents, row["answers"], number)]
        yield Question(
            *(row["id"], row["question"], row["answers"][0]),
            *(tuple(documents), tuple(places), tuple(dict.fromkeys(evidence))),
        )


def _sentence(document: str, number: int) -> str:
    """Return a sentence by its number; the title above them has none."""
    sentences = units_of(document.partition("\n")[2])
    return sentences[min(number, len(sentences) - 1)].strip()


def _places(documents: Sequence[str], answers: Sequence[str], number: int) -> Iterator[Span]:
    """Yield where answers stand in one document, as places in all of them joined."""
    before = sum(len(one) + len(_JOINT) for one in documents[:number])
    for answer in answers:
        for found in re.finditer(re.escape(answer), documents[number]):
            yield before + found.start(), before + found.end()


def _holding(document: str, answer: str) -> list[str]:
    """Return the sentences that hold an answer; one that stands in several takes them together."""
    sentences = units_of(document)
    ends = [sum(map(len, sentences[: number + 1])) for number in range(len(sentences))]
    held = []
    for found in re.finditer(re.escape(answer), document):
        first = next(place for place, end in enumerate(ends) if end > found.start())
        last = next(place for place, end in enumerate(ends) if end >= found.end())
        held.append("".join(sentences[first : last + 1]).strip())
    return held


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


_READERS: Mapping[str, Callable[[Sequence[Any], int], Iterator[Question]]] = MappingProxyType(
    {XQUAD: _xquad, NQ: _natural, HOTPOT: _hotpot}
)
FILES = tuple(_READERS)
"""Their names."""
