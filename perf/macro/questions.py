"""Questions with long contexts: the text that holds the answer, among others that do not.

XQuAD: a paragraph and the others of the same article, in the file's order. Natural Questions: a
document among others of the file. HotpotQA: its ten paragraphs, two of which are needed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .logs import read_lines

__all__ = ["HOTPOT", "NQ", "XQUAD", "Question", "Span", "read_questions", "sentence_spans"]

XQUAD = "squad_xquad_en.jsonl"
NQ = "nq_long_answer.jsonl"
HOTPOT = "hotpotqa_distractor.jsonl"

_ARTICLES = (
    "AAAAABBBBBCCCCCDDDDDEEEEEFFFFFGGGGGHHHHHIIIIIJJJJJKKKKKLLLLLMNOPOOOQQOQQQMR"
    "RRRNRNSMSMPSSSMPTUTUTTUTVUNNUPPWWVXXXVXYVXVWZZaWaaZZbbaabbWbZcccccdddddeeee"
)
"""The article of each line of XQuAD's file, by upstream's titles, which the file leaves out. One
paragraph is the only one of its article."""
_JOINT = "\n\n"
_END = re.compile(
    r"(?:(?<=[.!?])|(?<=[.!?][\"”’')\]]))(?<!\b[A-Z]\.)(?<!\b[A-Z]\.[\"”’')\]])"  # no initials
    r"(?<!\bMr\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\bNo\.)(?<!\bvs\.)\s+(?=[^\sa-z])|\n+"
)

Span = tuple[int, int]
"""Where something begins in a text, and where it has ended."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question, with the documents that its reader is given."""

    text: str
    answer: str
    """It stands in the documents word for word, but for HotpotQA's comparisons."""
    documents: tuple[str, ...]
    evidence: tuple[str, ...]
    """The sentences of the documents that give the answer, word for word: HotpotQA's are its
    supporting facts, of the others it is one sentence that holds the answer."""

    @property
    def context(self) -> str:
        """The documents as one text."""
        return _JOINT.join(self.documents)


def read_questions(path: Path, others: int = 19) -> list[Question]:
    """Read one of the three files; the same arguments give the same questions.

    Args:
        others: documents beside the one that holds the answer, for Natural Questions.

    Raises:
        ValueError: it is another file, or not as it is known.
    """
    rows = list(read_lines(path))
    if path.name == HOTPOT:
        return [_of_facts(row) for row in rows]
    if path.name == XQUAD:
        return [_of_answer(row, own) for row, own in zip(rows, _articles(rows), strict=True)]
    if path.name == NQ:
        return [_of_answer(row, own) for row, own in zip(rows, _drawn(rows, others), strict=True)]
    raise ValueError(f"{path.name} is none of {XQUAD}, {NQ} and {HOTPOT}")


def sentence_spans(text: str) -> list[Span]:
    """Return where each sentence of a text begins and ends, without the white space between them.

    Lines are sentences of their own. Rather too few than too many: what follows an abbreviation is
    of the same sentence.
    """
    spans, start = [], 0
    for found in _END.finditer(text):
        if text[start : found.start()].strip():
            spans.append((start, found.start()))
        start = found.end()
    if text[start:].strip():
        spans.append((start, len(text)))
    return spans


def _articles(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return each line's article; one that would be alone gets four paragraphs of others."""
    marked = list(zip(_ARTICLES, (str(row["context"]) for row in rows), strict=True))
    found = []
    for place, (mark, text) in enumerate(marked):
        own = tuple(other for its, other in marked if its == mark)
        found.append(own if len(own) > 1 else _among([t for _, t in marked], place, text, 4))
    return found


def _drawn(rows: Sequence[Mapping[str, Any]], others: int) -> list[tuple[str, ...]]:
    texts = [str(row["context"]) for row in rows]
    return [_among(texts, place, text, others) for place, text in enumerate(texts)]


def _among(texts: Sequence[str], place: int, text: str, others: int) -> tuple[str, ...]:
    """Return a text among some others, at any place, by a seed of its own."""
    draw = random.Random(f"{place} of {len(texts)}")
    rest = sorted({*texts} - {text})
    chosen = draw.sample(rest, min(others, len(rest)))
    chosen.insert(draw.randint(0, len(chosen)), text)
    return tuple(chosen)


def _of_answer(row: Mapping[str, Any], documents: tuple[str, ...]) -> Question:
    text = str(row["context"])
    answer = next((one for one in row["answers"] if one in text), row["answers"][0])
    sentence = _holding(text, answer, row["question"])
    return Question(row["question"], answer, documents, (sentence,))


def _holding(text: str, answer: str, question: str) -> str:
    """Return the sentence that holds the answer; of several the most like the question."""
    asked = _words(question)
    spans = sentence_spans(text)
    found = []
    for at in re.finditer(re.escape(answer), text):
        begin = max((start for start, _ in spans if start <= at.start()), default=0)
        end = min((end for _, end in spans if end >= at.end()), default=len(text))
        found.append(text[begin:end])
    return max(found, key=lambda one: len(asked & _words(one)), default=text)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _of_facts(row: Mapping[str, Any]) -> Question:
    documents = tuple(str(row["context"]).split(_JOINT))
    by_title = dict(one.partition("\n")[::2] for one in documents)
    evidence = []
    for title, number in row["supporting_facts"]:
        body = by_title[title]
        spans = sentence_spans(body)
        start, end = spans[min(number, len(spans) - 1)]
        evidence.append(body[start:end])
    return Question(row["question"], row["answers"][0], documents, tuple(evidence))
