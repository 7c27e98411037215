"""The command `trace`: which traces are known, and what one of them did."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from ..errors import ConfigError
from ..ops import Branch, TraceSummary, find_spans, summaries, survey, tree
from ..telemetry import Span
from .keys import Join
from .runtime import print_json
from .terminal import literal
from .watching import require_answers

__all__ = ["run_trace"]

_SHOWN = 20
"""Traces that are listed, the latest."""
_NONE = (
    "No spans are kept: 1 % of traces and all errors are, unless agentbus.toml says otherwise "
    "(`sample` in [bus.telemetry])."
)


async def run_trace(join: Join, trace: str, *, json: bool) -> None:
    """Print the latest traces, or with the beginning of an id that trace's spans as a tree.

    Raises:
        ConfigError: no trace or several begin so, or no process may be asked.
    """
    async with join("trace") as bus:
        spans = await find_spans(bus, trace.lower())
        if not spans:
            require_answers("trace", await survey(bus))
    traces = summaries(spans)
    if not trace:
        _list([one for one in traces if not _is_routine(one)][-_SHOWN:], json=json)
    elif len(traces) != 1:
        problem = f"{len(traces) or 'no'} traces are known whose id begins with {trace!r}"
        raise ConfigError("trace", problem)
    elif json:
        print_json([dataclasses.asdict(span) for span in spans])
    else:
        shown = Tree(f"trace {traces[0].trace}")
        _grow(shown, tree(spans))
        Console(highlight=False).print(shown)


def _is_routine(trace: TraceSummary) -> bool:
    """Say whether the bus itself was asked, as `ps` and `top` do all the time, and answered."""
    return trace.target.startswith("$") and not trace.error


def _list(traces: list[TraceSummary], *, json: bool) -> None:
    if json:
        print_json([dataclasses.asdict(summary) for summary in traces])
        return
    if not traces:
        print(_NONE)
        return
    table = Table()
    table.add_column("trace", no_wrap=True)
    for name in ("began", "asked", "ended"):
        table.add_column(name, overflow="fold")
    table.add_column("ms", justify="right")
    table.add_column("spans", justify="right")
    for summary in traces:
        began = datetime.fromtimestamp(summary.start_ns / 1e9, UTC)
        table.add_row(
            summary.trace,
            f"{began:%H:%M:%S}",
            literal(summary.target),
            literal(summary.error or "ok"),
            f"{summary.duration_s * 1e3:,.1f}",
            str(summary.spans),
        )
    Console().print(table)


def _grow(above: Tree, branches: tuple[Branch, ...]) -> None:
    for branch in branches:
        _grow(above.add(literal(_label(branch.span))), branch.below)


def _label(span: Span) -> str:
    account = span.account
    words = [span.name, f"{span.duration_s * 1e3:,.2f} ms"]
    if span.kind == "server":
        words.append(f"{account.queue_s * 1e3:,.2f} ms of it waiting")
    if account.model.calls:
        model = account.model
        words.append(f"{model.prompt_tokens} tokens read, {model.decoded_tokens} written")
        if model.lost_tokens:
            words.append(f"about {model.lost_tokens} read before, in another place")
        if model.saved_tokens:
            lossy = f" ({model.left_out_tokens} of them left out)" if model.left_out_tokens else ""
            words.append(f"{model.saved_tokens} saved by filters{lossy}")
        if model.unparsable_answers:
            words.append(f"{model.unparsable_answers} of {model.structured_answers} unparsable")
    return ", ".join([*words, f"at {span.process}", *([span.error] if span.error else [])])
