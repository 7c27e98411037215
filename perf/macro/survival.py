"""Rows of the suite `filters`: does the sentence that holds a question's answer survive extraction?

A question counts if one place of an answer in its own paragraph (`questions`) is there with its whole
sentence, found anew in the delivered text. The weights in `agentbus.filters.rank` and in
`agentbus_minilm` come from XQuAD's other articles and from Natural Questions' other documents. That of
feedback in `agentbus.filters.bm25`, and how the mark is worded, were chosen on every second question
of these, the first of each file among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from agentbus_minilm import open_ranker

from agentbus.errors import AgentbusError
from agentbus.filters import BM25, Extract, Ranker
from agentbus.filters.units import units_of

from ..report import Row, compare
from ..suite import Progress
from .questions import FILES, Question, read_questions
from .rankings import RANKINGS, Count, Ranking, best
from .recorded import found, say

__all__ = ["METHOD", "rows"]

METHOD = (
    "extract_*: questions whose answer's sentence is there, and tokens delivered, where so many "
    "percent of a text's tokens are kept, marks included; peers choose among the same sentences, "
    "and are charged no marks."
)
RATES = (50, 30, 20, 10)
QUICK_QUESTIONS = 8


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
    for name, path in found(data / "qa", FILES):
        questions = [one for one in read_questions(path) if one.places]
        some = questions[:QUICK_QUESTIONS] if quick else questions
        if not some:
            continue
        theirs = {peer: _of_peer(RANKINGS[peer], some, count) for peer in peers if peer in RANKINGS}
        for ranker_name, ranker in rankers.items():
            case = f"extract_{name}_{ranker_name}"
            progress(case)
            measured += compare("filters", case, _ours(ranker, some, count), theirs)
    return measured


def _ours(ranker: Ranker, questions: Sequence[Question], count: Count) -> dict[str, float]:
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
    mark, _, body = text.partition("\n")
    sign = mark[mark.index(" at ") + 4 : mark.index(";")]
    for part in body.split(sign):
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


def _survives(question: Question, units: Sequence[str], kept: set[int]) -> bool:
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
        for start, end in question.places
    )


def _figures(sums: dict[int, _Sums], questions: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    for rate, summed in sums.items():
        figures[f"at_{rate}_survival_percent"] = 100 * summed.kept / questions
        figures[f"at_{rate}_tokens"] = float(summed.tokens)
    return figures


def _of_peer(ranking: Ranking, questions: Sequence[Question], count: Count) -> dict[str, float]:
    sums = {rate: _Sums() for rate in RATES}
    for question in questions:
        units = units_of(question.text)
        sizes = [count(unit.rstrip()) for unit in units]
        scores = ranking(question, units)
        whole = count(question.text)
        for rate in RATES:
            kept = best(scores, sizes, rate * whole // 100)
            sums[rate].kept += _survives(question, units, {*kept})
            sums[rate].tokens += sum(sizes[place] for place in kept)
    return _figures(sums, len(questions))
