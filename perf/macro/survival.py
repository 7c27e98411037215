"""Rows of the suite `filters`: does the sentence that holds a question's answer survive extraction?

The paragraph with the answer stands among others, in an order drawn from the question's name: in
XQuAD among those of the same article, in Natural Questions among 19 others; HotpotQA's contexts have
ten as they are. A question counts if one place of an answer in its own paragraph is there with its
whole sentence, found anew in the delivered text. Nothing was tuned on these questions: the weights in
`agentbus.filters.rank` and in `agentbus_minilm` come from XQuAD's other articles and from Natural
Questions' other documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

from agentbus_minilm import open_ranker

from agentbus.errors import AgentbusError
from agentbus.filters import BM25, Extract, Ranker
from agentbus.filters.units import units_of

from ..peers import BM25S, Peer
from ..report import Row, compare
from ..suite import Progress
from .logs import read_lines
from .recorded import found, say

__all__ = ["METHOD", "PEERS", "rows"]

METHOD = (
    "extract_*: questions whose answer's sentence is there, and tokens delivered, where so many "
    "percent of a text's tokens are kept, marks included; peers choose among the same sentences, "
    "and are charged no marks."
)
RATES = (50, 30, 20, 10)
QUICK_QUESTIONS = 8
_OTHERS = 19
_ARTICLES = (
    "AAAAABBBBBCCCCCDDDDDEEEEEFFFFFGGGGGHHHHHIIIIIJJJJJKKKKKLLLLLMNOPOOOQQOQQQMRRRRNRNSMSMPSSSMP"
    "TUTUTTUTVUNNUPPWWVXXXVXYVXVWZZaWaaZZbbaabbWbZcccccdddddeeee"
)
"""Which paragraphs of XQuAD are of one article, in the file's order; it does not say so itself."""
_SIGN = "[…]"

Count = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class _Question:
    name: str
    query: str
    text: str
    answers: tuple[tuple[int, int], ...]
    """Where in the text answers stand, each with its end."""


@dataclass(slots=True)
class _Sums:
    kept: int = 0
    tokens: int = 0


class _Timed:
    """Ranks each text once for a query, and times it."""

    def __init__(self, ranker: Ranker) -> None:
        self._ranker = ranker
        self._known: dict[tuple[str, str], Sequence[float]] = {}
        self.seconds = 0.0

    def score(self, query: str, units: Sequence[str]) -> Sequence[float]:
        key = query, "".join(units)
        if key not in self._known:
            begun = perf_counter()
            self._known[key] = self._ranker.score(query, units)
            self.seconds += perf_counter() - begun
        return self._known[key]


def rows(
    data: Path, count: Count, peers: Sequence[str], *, quick: bool, progress: Progress
) -> list[Row]:
    """Measure the rankers that are installed on the questions that are there."""
    rankers: dict[str, Ranker] = {"bm25": BM25()}
    try:
        rankers["minilm"] = open_ranker()
    except AgentbusError as error:
        say(f"skipped extract_*_minilm: {error}")
    measured: list[Row] = []
    for name, path in found(data / "qa", tuple(_READERS)):
        questions = list(_READERS[path.name](list(read_lines(path))))
        some = questions[:QUICK_QUESTIONS] if quick else questions
        if not some:
            continue
        theirs = {
            peer: _of_peer(_RANKINGS[peer], some, count) for peer in peers if peer in _RANKINGS
        }
        for ranker_name, ranker in rankers.items():
            case = f"extract_{name}_{ranker_name}"
            progress(case)
            measured += compare("filters", case, _ours(ranker, some, count), theirs)
    return measured


# The questions


def _xquad(items: Sequence[Any]) -> Iterator[_Question]:
    """Yield questions among the paragraphs of their article; those that are alone in it are left out."""
    if len(items) != len(_ARTICLES):
        say("skipped extract_squad_xquad_en_*: not the file whose articles are known")
        return
    for item, article in zip(items, _ARTICLES, strict=True):
        others = [
            other["context"]
            for other, its in zip(items, _ARTICLES, strict=True)
            if its == article and other is not item
        ]
        if others:
            yield _among(item, others)


def _natural(items: Sequence[Any]) -> Iterator[_Question]:
    """Yield questions among so many other documents of the file."""
    for item in items:
        others = [other["context"] for other in items if other is not item]
        drawn = Random(item["id"]).sample(others, min(_OTHERS, len(others)))
        yield _among(item, drawn)


def _among(item: Any, others: Sequence[str]) -> _Question:
    paragraphs = [item["context"], *others]
    order = list(range(len(paragraphs)))
    Random(item["id"]).shuffle(order)
    before = [paragraphs[place] for place in order[: order.index(0)]]
    start = sum(len(paragraph) + 2 for paragraph in before)
    text = "\n\n".join(paragraphs[place] for place in order)
    places = _places(text, item["answers"], start, start + len(item["context"]))
    return _Question(item["id"], item["question"], text, tuple(places))


def _hotpot(items: Sequence[Any]) -> Iterator[_Question]:
    """Yield questions in their own contexts; answers count in the paragraphs that hold the facts."""
    for item in items:
        text = item["context"]
        titles = {title for title, _ in item["supporting_facts"]}
        places: list[tuple[int, int]] = []
        start = 0
        for paragraph in text.split("\n\n"):
            if paragraph.partition("\n")[0] in titles:
                places += _places(text, item["answers"], start, start + len(paragraph))
            start += len(paragraph) + 2
        if places:
            yield _Question(item["id"], item["question"], text, tuple(places))


def _places(text: str, answers: Sequence[str], start: int, end: int) -> Iterator[tuple[int, int]]:
    for answer in answers:
        at = text.find(answer, start, end)
        while at >= 0:
            yield at, at + len(answer)
            at = text.find(answer, at + 1, end)


_READERS: dict[str, Callable[[Sequence[Any]], Iterator[_Question]]] = {
    "squad_xquad_en.jsonl": _xquad,
    "nq_long_answer.jsonl": _natural,
    "hotpotqa_distractor.jsonl": _hotpot,
}


# Ours


def _ours(ranker: Ranker, questions: Sequence[_Question], count: Count) -> dict[str, float]:
    timed = _Timed(ranker)
    sums = {rate: _Sums() for rate in RATES}
    unlike, seconds = 0, 0.0
    for question in questions:
        units = units_of(question.text)
        whole = set(range(len(units)))
        timed.score(question.query, units)
        for rate in RATES:
            extract = Extract(keep=rate / 100, ranker=timed)
            begun = perf_counter()
            shortened = extract.shorten(
                question.text, ref="ctx:ab12cd34", query=question.query, count=count
            )
            seconds += perf_counter() - begun
            text = question.text if shortened is None else shortened.text
            kept = whole if shortened is None else _kept(units, text)
            unlike += kept is None
            sums[rate].kept += kept is not None and _survives(question, units, kept)
            sums[rate].tokens += count(text)
    lengths = sum(len(question.text) for question in questions)
    return {
        **_figures(sums, len(questions)),
        "rank_10_kb_ms": 1e7 * timed.seconds / lengths,
        "choose_10_kb_ms": 1e7 * seconds / len(RATES) / lengths,
        "unlike_violations": float(unlike),
    }


def _kept(units: Sequence[str], text: str) -> set[int] | None:
    """Return which units a delivered text has; None if it has what is no run of units."""
    kept: set[int] = set()
    place = 0
    for part in text.rpartition("\n")[0].split(_SIGN):
        left = part.strip()
        if not left:
            continue
        while place < len(units) and not _is_run(units, place, left):
            place += 1
        if place == len(units):
            return None
        while left:
            kept.add(place)
            left = left[len(units[place].strip()) :].lstrip()
            place += 1
    return kept


def _is_run(units: Sequence[str], place: int, text: str) -> bool:
    """Say whether the units from a place on are the text, but for white space around it."""
    run = ""
    while place < len(units) and len(run.strip()) < len(text):
        run += units[place]
        place += 1
    return run.strip() == text


def _survives(question: _Question, units: Sequence[str], kept: set[int]) -> bool:
    """Say whether an answer is there with all of the sentences that it stands in."""
    starts = [0]
    for unit in units:
        starts.append(starts[-1] + len(unit))
    return any(
        all(
            place in kept
            for place in range(len(units))
            if starts[place] < end and starts[place + 1] > start
        )
        for start, end in question.answers
    )


def _figures(sums: dict[int, _Sums], questions: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    for rate, summed in sums.items():
        figures[f"at_{rate}_survival_percent"] = 100 * summed.kept / questions
        figures[f"at_{rate}_tokens"] = float(summed.tokens)
    return figures


# Peers


def _bm25s(question: _Question, units: Sequence[str]) -> Sequence[float]:
    import bm25s  # `make peers` installs it

    words = bm25s.tokenize([*units, question.query], show_progress=False, return_ids=False)
    index = bm25s.BM25()
    index.index(words[:-1], show_progress=False)
    asked = [word for word in words[-1] if word in index.vocab_dict]
    scores: Sequence[float] = index.get_scores(asked).tolist() if asked else [0.0] * len(units)
    return scores


def _head(_question: _Question, units: Sequence[str]) -> Sequence[float]:
    return range(len(units), 0, -1)


def _tail(_question: _Question, units: Sequence[str]) -> Sequence[float]:
    return range(len(units))


def _random(question: _Question, units: Sequence[str]) -> Sequence[float]:
    draw = Random(question.name)
    return [draw.random() for _ in units]


_Ranking = Callable[[_Question, Sequence[str]], Sequence[float]]
_RANKINGS: dict[str, _Ranking] = {
    BM25S.name: _bm25s,
    "head": _head,
    "tail": _tail,
    "random": _random,
}
PEERS = tuple(BM25S if name == BM25S.name else Peer(name) for name in _RANKINGS)


def _of_peer(ranking: _Ranking, questions: Sequence[_Question], count: Count) -> dict[str, float]:
    sums = {rate: _Sums() for rate in RATES}
    for question in questions:
        units = units_of(question.text)
        sizes = [count(unit.rstrip()) for unit in units]
        scores = ranking(question, units)
        whole = count(question.text)
        for rate in RATES:
            kept = _best(scores, sizes, rate * whole // 100)
            sums[rate].kept += _survives(question, units, kept)
            sums[rate].tokens += sum(sizes[place] for place in kept)
    return _figures(sums, len(questions))


def _best(scores: Sequence[float], sizes: Sequence[int], room: int) -> set[int]:
    """Return the places of the best that fit into so many tokens."""
    kept: set[int] = set()
    for place in sorted(range(len(scores)), key=lambda place: (-scores[place], place)):
        if sizes[place] <= room:
            kept.add(place)
            room -= sizes[place]
    return kept
