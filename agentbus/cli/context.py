"""`agentbus context`: what stands in model calls, how two differ, and what their prefixes lose."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..context import Cause, Finding, Linter, Part, SegmentKind, TokenCounter
from ..errors import ConfigError, LayoutError
from .context_files import ModelCall, Session, read_sessions
from .counting import Counting, open_counting
from .options import Json
from .runtime import print_json, run
from .terminal import literal

__all__ = ["context"]

context = typer.Typer(
    help="Look into the contexts of model calls, and grade their prefixes.", no_args_is_help=True
)

_DIGEST_SHOWN = 12
_BEGINNING = 48
"""Characters shown of a part."""

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE…",
        help="Transcripts or sessions of calls, as JSON or JSON Lines, also with .gz.",
        show_default=False,
    ),
]
Model = Annotated[
    str,
    typer.Option(help="The model whose tokens are counted; else smollm2's, or characters."),
]
AgentName = Annotated[
    str, typer.Option("--agent", help="The agent that a transcript's assistant is.")
]


@context.callback()
def group() -> None:
    """Look into the contexts of model calls, and grade their prefixes."""


@context.command()
def show(
    file: Annotated[Path, typer.Argument(help="A transcript, or sessions of calls.")],
    session: Annotated[int, typer.Option(min=1, help="Which session of the file.")] = 1,
    call: Annotated[
        int | None, typer.Option(min=1, help="Which call of the session; else the last.")
    ] = None,
    model: Model = "",
    agent: AgentName = "assistant",
    json: Json = False,
) -> None:
    """Show the segments of a call: names, sizes, tokens."""

    async def job() -> None:
        counting = await open_counting(model)
        sessions = read_sessions(file, agent)
        title, chosen = _chosen(file, sessions, session, call)
        _show(title, chosen, counting, json=json)

    run(job, json=json)


@context.command()
def diff(
    files: Files, model: Model = "", agent: AgentName = "assistant", json: Json = False
) -> None:
    """Say where the contexts of two calls part: a file's last two, or the last of each of two.

    Of a file with several sessions the last one counts. Behind that place, - is what only the
    first call has, + what only the second has, and = what both have.
    """

    async def job() -> None:
        if len(files) > 2:
            raise ConfigError("context diff", "takes one file or two")
        wanted = 2 if len(files) == 1 else 1
        one, other = (call for file in files for call in _last(file, agent, wanted))
        _diff(one, other, await open_counting(model), json=json)

    run(job, json=json)


@context.command()
def lint(
    files: Files, model: Model = "", agent: AgentName = "assistant", json: Json = False
) -> None:
    """Grade each call of a session: where it leaves what was sent before, and what that costs."""

    async def job() -> None:
        counting = await open_counting(model)
        graded = [
            (session, _grades(session, counting))
            for file in files
            for session in read_sessions(file, agent)
        ]
        _report(graded, counting, json=json)

    run(job, json=json)


def _notes(counting: Counting) -> list[str]:
    """Say how was counted, and what the model's template does to prefixes."""
    template = counting.template
    if template is None or template.append_only:
        return [counting.note]
    return [counting.note, f"Its chat template {template.problem}: prompts are rendered whole."]


def _last(path: Path, agent: str, wanted: int) -> tuple[ModelCall, ...]:
    calls = read_sessions(path, agent)[-1].calls
    if len(calls) < wanted:
        advice = "name a second file" if calls else "name another"
        problem = f"the last session of {path} has {len(calls)} of {wanted} calls; {advice}"
        raise ConfigError("context diff", problem)
    return calls[-wanted:]


def _chosen(
    path: Path, sessions: list[Session], session: int, call: int | None
) -> tuple[str, ModelCall]:
    """Return a call, and a title that says which of how many it is."""
    if session > len(sessions):
        raise ConfigError("--session", f"{path} has {len(sessions)}")
    name, calls = sessions[session - 1].name, sessions[session - 1].calls
    if not calls:
        raise ConfigError("--session", f"session {session} of {path} has no calls")
    if call is not None and call > len(calls):
        raise ConfigError("--call", f"session {session} of {path} has {len(calls)}")
    number = call or len(calls)
    place = f"session {session} of {len(sessions)}, call {number} of {len(calls)}"
    return f"{name}: {place}", calls[number - 1]


def _grades(session: Session, counting: Counting) -> list[Finding]:
    """Grade a session; what the model's template does counts where it can render all calls."""
    whole = all(call.context is not None for call in session.calls)
    for template in (counting.template if whole else None, None):
        linter = Linter(counting.count, template=template)
        with contextlib.suppress(LayoutError):
            return [linter.grade(call.parts) for call in session.calls]
    raise AssertionError("a linter without a template renders nothing")


def _rows(call: ModelCall, count: TokenCounter) -> list[dict[str, Any]]:
    if call.context is None:
        return [
            {"name": p.name, "characters": len(p.turn.text), "size": count(p.turn.text)}
            for p in call.parts
        ]
    return [
        {
            "name": s.kind.value,
            "author": s.author,
            "digest": s.digest.hex(),
            "characters": len(s.text),
            "size": 0 if s.kind is SegmentKind.NOTE else count(s.text),
        }
        for s in call.segments
    ]


def _show(title: str, call: ModelCall, counting: Counting, *, json: bool) -> None:
    rows = _rows(call, counting.count)
    total = sum(row["size"] for row in rows)
    root = "" if call.context is None else call.context.root.hex()
    if json:
        named = [{counting.unit if k == "size" else k: v for k, v in r.items()} for r in rows]
        print_json({"root": root, "unit": counting.unit, "total": total, "segments": named})
        return
    counted = counting.unit == "tokens"
    table = Table("segment", "author", "digest")
    table.add_column("characters", justify="right")
    if counted:
        table.add_column("tokens", justify="right")
    for row in rows:
        cells = [literal(row["name"]), literal(row.get("author", ""))]
        cells += [row.get("digest", "")[:_DIGEST_SHOWN], str(row["characters"])]
        table.add_row(*cells, *([str(row["size"])] if counted else []))
    console = Console(highlight=False)
    console.print(literal(title))
    console.print(table)
    console.print(f"{len(rows)} segments, {total} {counting.unit}.")
    if root:
        console.print(f"Root {root}.")
    console.print(literal(" ".join(_notes(counting))), style="dim")


def _diff(one: ModelCall, other: ModelCall, counting: Counting, *, json: bool) -> None:
    finding = _grades(Session("", (one, other)), counting)[-1]
    before, after = ([part.turn for part in call.parts] for call in (one, other))
    same = next(
        (n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b),
        min(len(before), len(after)),
    )
    rows = _changes(one.parts[same:], other.parts[same:])
    if json:
        shown = [
            {"sign": sign, "name": p.name, counting.unit: counting.count(p.turn.text)}
            for sign, p in rows
        ]
        print_json({"equal": same, **_plain(finding, counting.unit), "parts": shown})
        return
    console = Console(highlight=False)
    console.print(f"Equal: {same} parts whole, the first {finding.shared} {counting.unit}.")
    table = Table("", "part", "begins")
    table.add_column(counting.unit, justify="right")
    for sign, part in rows:
        begins = literal(_beginning(part.turn.text))
        table.add_row(sign, literal(part.name), begins, str(counting.count(part.turn.text)))
    if rows:
        console.print(table)
    console.print(literal(_sentence(finding, counting.unit)))
    console.print(literal(" ".join(_notes(counting))), style="dim")


def _changes(one: Sequence[Part], other: Sequence[Part]) -> list[tuple[str, Part]]:
    """Return what one alone has, then the other, with a sign: -, + or, of what both have, =."""
    both = Counter(part.turn for part in one) & Counter(part.turn for part in other)
    rows: list[tuple[str, Part]] = []
    for sign, parts in (("-", one), ("+", other)):
        left = both.copy()
        for part in parts:
            left[part.turn] -= 1
            if left[part.turn] < 0:
                rows.append((sign, part))
            elif sign == "+":
                rows.append(("=", part))
    return rows


def _beginning(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _BEGINNING else words[:_BEGINNING] + "…"


def _sentence(finding: Finding, unit: str) -> str:
    if finding.cause is Cause.EXTENDED:
        new = finding.tokens - finding.shared
        return f"One is the beginning of the other; {new} {unit} are new."
    if finding.cause is Cause.UNRELATED:
        return "They share nothing."
    return (
        f"They part at {finding.segment}: {finding.cause}; {finding.detail}. "
        f"{finding.lost} {unit} behind it are in both, and are computed again."
    )


def _plain(finding: Finding, unit: str) -> dict[str, Any]:
    row = dataclasses.asdict(finding)
    row["against"] = None if finding.against is None else finding.against + 1
    row[unit] = row.pop("tokens")
    row["cause"] = finding.cause.name.lower()
    return row


def _report(graded: list[tuple[Session, list[Finding]]], counting: Counting, *, json: bool) -> None:
    findings = [finding for _, found in graded for finding in found]
    totals = {
        "calls": len(findings),
        counting.unit: sum(f.tokens for f in findings),
        "shared": sum(f.shared for f in findings),
        "lost": sum(f.lost for f in findings),
    }
    if json:
        sessions = [
            {
                "session": session.name,
                "calls": [
                    {"call": number, **_plain(f, counting.unit)}
                    for number, f in enumerate(found, start=1)
                ],
            }
            for session, found in graded
        ]
        print_json(
            {
                "unit": counting.unit,
                "notes": _notes(counting),
                "total": totals,
                "sessions": sessions,
            }
        )
        return
    console = Console(highlight=False)
    for session, found in graded:
        console.print(_table(session, found, counting.unit))
    whole = max(totals[counting.unit], 1)
    console.print(
        f"{len(findings)} calls, {totals[counting.unit]} {counting.unit}: "
        f"{totals['shared']} shared with an earlier call ({totals['shared'] / whole:.0%}), "
        f"{totals['lost']} lost behind a difference ({totals['lost'] / whole:.0%})."
    )
    console.print(literal(" ".join(_notes(counting))), style="dim")


def _table(session: Session, found: list[Finding], unit: str) -> Table:
    table = Table(title=literal(session.name), title_justify="left")
    for name in ("call", unit, "shared", "lost", "against"):
        table.add_column(name, justify="right")
    table.add_column("first difference")
    for number, finding in enumerate(found, start=1):
        against = "" if finding.against is None else str(finding.against + 1)
        numbers = (finding.tokens, finding.shared, finding.lost)
        why = f"{finding.segment}: {finding.cause}" if finding.segment else str(finding.cause)
        words = f"{why}; {finding.detail}" if finding.detail else why
        table.add_row(str(number), *map(str, numbers), against, literal(words))
    return table
