"""Cases `answers_…` of the suite `filters`: how well a small model answers from shortened contexts.

Each question is asked with its whole context and with what each way leaves of it, in as many tokens
as extraction may take. The model is not let to answer: the given answer is scored.

How extraction words its mark, and what feedback counts in its ranking, were chosen by these figures on
every second question of each file, the first among them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Final

from agentbus_minilm import open_ranker

from agentbus.config import FilterRule
from agentbus.context import Prompt, Turn
from agentbus.engine import Scorer
from agentbus.errors import AgentbusError
from agentbus.filters import Ranker, open_lossy, plan_of

from ..bootstrap import against
from ..peers import BM25S, HEAD, LLMLINGUA, LONG_LLMLINGUA, RANDOM, TAIL
from ..report import Row, compare
from ..small_model import small_model
from ..suite import Progress
from .questions import HOTPOT, NQ, XQUAD, Question, read_questions
from .rankings import RANKINGS, Count, best_text
from .recorded import found, say
from .with_model import open_engine

__all__ = ["METHOD", "OURS", "OURS_BY_MEANING", "PEERS", "answer_rows", "rows_of"]

METHOD = (
    "answers_*: how improbable SmolLM2 finds the given answer, in nats a token, from what is left of "
    "a context at 30 %; delta_: less the same from the whole context; against_: ours less the peer's, "
    "with 95 % paired bootstrap intervals over questions."
)
PEERS = (HEAD, TAIL, RANDOM, BM25S, LLMLINGUA, LONG_LLMLINGUA)
OURS = "agentbus"
OURS_BY_MEANING = "agentbus_minilm"
"""Extraction by BM25S, and with MiniLM beside it."""

_FULL, _NONE, _ORACLE = "full", "none", "oracle"
"""Everything, nothing, and the sentences that give the answer: what any way lies between."""
_CASES: Mapping[str, str] = MappingProxyType(
    {XQUAD: "answers_xquad", NQ: "answers_nq", HOTPOT: "answers_hotpotqa"}
)
_ALL = "answers_all"
_SLOW_EVERY = 5
"""LLMLingua takes up to a minute a question on a CPU: it is asked each fifth."""
_SOME = "answers_some"
_OTHERS = 5
"""Documents beside the right one, of Natural Questions: the context is as long as HotpotQA's."""
_QUICK = 4
"""Questions of each file that --quick asks."""
_KEEP: Final = 0.3
_HOW = "Answer with a few words of the text, and nothing else."
"""Of three wordings, the one with which the model found answers most likely, with whole contexts,
without, and with the evidence alone."""
_REF = "ctx:5a1e7c02"
"""Stands for the name that the original has."""

Texts = Mapping[str, Sequence[str]]
"""By way, what it left of each question's context."""
Asked = Mapping[str, Sequence[Question]]
"""By case, its questions."""
Figures = Mapping[str, Sequence[float]]
"""By way, a figure for each question."""
_Ours = Callable[[Question, Count], str]
_Way = Callable[[Question, int, Count], str]
"""Returns a question's text in so many tokens at most."""


async def answer_rows(
    data: Path, peers: Sequence[str], count: Count, *, quick: bool, progress: Progress
) -> list[Row]:
    """Measure all questions that are there.

    Raises:
        ChildFailed, EngineError: the small model cannot be had.
    """
    asked = dict(_questions(data, quick=quick))
    if not asked:
        return []
    ours = await asyncio.to_thread(_ours)
    ways = {
        name: partial(best_text, ranking) for name, ranking in RANKINGS.items() if name in peers
    }
    left = await _leave(asked, ours, ways, count, progress)
    rows = await _scored_rows(asked, left, count, progress)
    slow = await _slow_ways(peers, quick=quick)
    if not slow:
        return rows
    some = {case: questions[::_SLOW_EVERY] for case, questions in asked.items()}
    left = await _leave(some, ours, slow, count, progress)
    slow.clear()  # with a model of their own
    return rows + await _scored_rows(some, left, count, progress, only=_SOME)


def _questions(data: Path, *, quick: bool) -> Iterator[tuple[str, list[Question]]]:
    for _, path in found(data / "qa", tuple(_CASES)):
        questions = read_questions(path, _OTHERS)
        every = max(1, len(questions) // _QUICK) if quick else 1
        yield _CASES[path.name], questions[::every]


def _ours() -> dict[str, _Ours]:
    ours = {OURS: _extract()}
    try:
        ours[OURS_BY_MEANING] = _extract(open_ranker())
    except AgentbusError as error:
        say(f"skipped {OURS_BY_MEANING}: {error}")
    return ours


def _extract(ranker: Ranker | None = None) -> _Ours:
    """Return extraction as a rule has it that says no more than its name and the share."""
    (rule,) = plan_of((FilterRule(use=("extract",), keep=_KEEP),), "reader")
    extract = open_lossy("extract", rule, ranker)

    def shorten(question: Question, count: Count) -> str:
        text = question.text
        found = extract and extract.shorten(text, ref=_REF, query=question.query, count=count)
        return found.text if found else text

    return shorten


async def _slow_ways(peers: Sequence[str], *, quick: bool) -> dict[str, _Way]:
    slow = [peer.name for peer in (LLMLINGUA, LONG_LLMLINGUA) if peer.name in peers]
    if slow and quick:
        say(f"skipped {' and '.join(slow)} for --quick: they take minutes")
    if not slow or quick:
        return {}
    from ..peers.llmlingua import Compressor  # `make peers` installs what it needs

    compressor = await asyncio.to_thread(Compressor, await small_model())
    return {name: partial(compressor.shorten, name) for name in slow}


async def _leave(
    asked: Asked,
    ours: Mapping[str, _Ours],
    theirs: Mapping[str, _Way],
    count: Count,
    progress: Progress,
) -> dict[str, Texts]:
    """Shorten all contexts by each way."""
    return {
        case: await asyncio.to_thread(_left, case, questions, ours, theirs, count, progress)
        for case, questions in asked.items()
    }


def _left(
    case: str,
    questions: Sequence[Question],
    ours: Mapping[str, _Ours],
    theirs: Mapping[str, _Way],
    count: Count,
    progress: Progress,
) -> Texts:
    """Shorten each context by each way; peers may take the share, or what ours took over it."""
    left: dict[str, list[str]] = {name: [] for name in (_FULL, _NONE, _ORACLE, *ours, *theirs)}
    for number, one in enumerate(questions):
        progress(f"{case}: shortening {number + 1} of {len(questions)}")
        room = int(_KEEP * count(one.text))
        for name, extract in ours.items():
            left[name].append(extract(one, count))
            room = max(room, count(left[name][-1]))
        for name, way in theirs.items():
            left[name].append(way(one, room, count))
        for name, text in ((_FULL, one.text), (_NONE, ""), (_ORACLE, "\n".join(one.evidence))):
            left[name].append(text)
    return left


async def _scored_rows(
    asked: Asked,
    left: Mapping[str, Texts],
    count: Count,
    progress: Progress,
    *,
    only: str = "",
) -> list[Row]:
    """Score what each way left, file by file and in all; or in all only, as a case of that name."""
    rows: list[Row] = []
    scores: dict[str, list[float]] = {}
    tokens: dict[str, list[float]] = {}
    engine = await open_engine()
    try:
        for case, questions in asked.items():
            for name, texts in left[case].items():
                progress(f"{case}: scoring the answers from {name}")
                found = [await _nll(engine, *pair) for pair in zip(texts, questions, strict=True)]
                scores.setdefault(name, []).extend(found)
                tokens.setdefault(name, []).extend(float(count(text)) for text in texts)
            rows += rows_of(case, *(_last(f, len(questions)) for f in (scores, tokens)))
    finally:
        await engine.aclose()
    return rows_of(only, scores, tokens) if only else rows + rows_of(_ALL, scores, tokens)


def _last(figures: Figures, number: int) -> Figures:
    return {name: values[-number:] for name, values in figures.items()}


async def _nll(engine: Scorer, context: str, question: Question) -> float:
    """Return how improbable the model finds the answer: nats a token, the mean over its tokens."""
    asked = f"Question: {question.query}\n{_HOW}"
    turn = Turn("user", f"{context}\n\n{asked}" if context else asked)
    scores = await engine.score(Prompt((turn,), Turn("assistant", "")), [question.answer])
    return -fmean(scores.scores[0].logprobs)


def rows_of(case: str, scores: Figures, tokens: Figures) -> list[Row]:
    """Return a case's rows, and those of our other ranker as a case of its own."""
    rows = _compared(case, OURS, scores, tokens, without=OURS_BY_MEANING)
    if OURS_BY_MEANING in scores:
        rows += _compared(f"{case}, ranked by minilm", OURS_BY_MEANING, scores, tokens)
    return rows


def _compared(
    case: str, ours: str, scores: Figures, tokens: Figures, without: str = ""
) -> list[Row]:
    """Return means over questions, and intervals of ours less each other's."""
    metrics = {
        name: {
            "answer_nll_nats": fmean(values),
            "delta_nats": fmean(values) - fmean(scores[_FULL]),
            "kept_tokens": fmean(tokens[name]),
        }
        for name, values in scores.items()
        if name != without
    }
    rows = [
        # A difference, which may be under 0, is not so many times another.
        replace(row, ratio=None) if row.metric == "delta_nats" else row
        for row in compare("filters", case, metrics.pop(ours), metrics)
    ]
    for name in metrics:
        rows += against("filters", case, name, "nats", scores[ours], scores[name])
    return rows
