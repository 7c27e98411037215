"""The logs that the suite `reuse` replays: model calls as they were sent, traces of servers."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson

from agentbus.kv import Step

from .replay import LoggedCall

__all__ = ["CALLS", "TRACES", "read_calls", "read_lines", "read_traces"]

CALLS = ("magagent.jsonl.gz", "miniswe.jsonl.gz", "taubench.jsonl")
TRACES = ("agentic_coding_plain.jsonl.gz", "agentic_coding_subagents.jsonl.gz")

_SUBAGENT = "subagent"
_Timed = tuple[float, LoggedCall]


def read_lines(path: Path) -> Iterator[Any]:
    """Yield the values of a JSON Lines file, which may be compressed."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        yield from map(orjson.loads, lines)


def read_calls(path: Path, encode: Callable[[str], Sequence[int]]) -> list[LoggedCall]:
    """Read sessions of prompts as they were sent, with their times, as if all began at once.

    Nothing in them tells which agent called, so a session is one owner.
    """
    timed: list[_Timed] = []
    for session in read_lines(path):
        name = session["id"]
        for call in session["calls"]:
            tokens = encode(call["input"])
            if tokens:
                timed.append((call["t_us"] / 1e6, LoggedCall(name, "session", tokens)))
    return _in_order(timed)


def read_traces(path: Path) -> list[LoggedCall]:
    """Read traces of coding agents, as if all began at once; a token stands for 64.

    An agent that waits for a tool and one whose turn is over are told apart by how the answer
    ended, as an engine does. Which of the latter are sub-agents that have reported is not told.
    """
    timed: list[_Timed] = []
    for trace in read_lines(path):
        timed += _requests(trace["id"], "main", trace["requests"], 0.0)
    return _in_order(timed)


def _requests(
    trace: str, owner: str, requests: Sequence[Mapping[str, Any]], start: float
) -> Iterator[_Timed]:
    for request in requests:
        at = start + request["t"]
        if request["type"] == _SUBAGENT:
            yield from _requests(trace, request["agent_id"], request["requests"], at)
            continue
        step = {"tool_use": Step.TOOL, "end_turn": Step.REPLY}.get(
            request.get("stop", ""), Step.UNKNOWN
        )
        yield at, LoggedCall(trace, owner, request["hash_ids"], step, trace.encode())


def _in_order(timed: Sequence[_Timed]) -> list[LoggedCall]:
    return [call for _, call in sorted(timed, key=itemgetter(0))]
