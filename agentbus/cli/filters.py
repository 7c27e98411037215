"""`agentbus filters`: what filters make of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.markup import escape
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ..config import FilterName, FilterRule
from ..context import Decision, Ledger, TenantKey
from ..errors import UnreadableFile
from ..filters import ESTIMATED, Pipeline, estimate_tokens, is_kept, open_lossy, plan_of
from .context_files import read_bytes
from .counting import Counting, open_counting
from .keys import KeyFile, ServerKey, TokenFile, joining
from .options import BusUrl, Json, bus_url
from .runtime import print_json, run

__all__ = ["filters"]

filters = typer.Typer(help="See what filters make of texts.", no_args_is_help=True)

_LOSSLESS: tuple[FilterName, ...] = ("lossless",)
_WITH_QUERY: tuple[FilterName, ...] = ("lossless", "strip", "extract", "offload")
_SHOWN_CHARACTERS = 240


class _Tried(NamedTuple):
    path: Path
    text: str
    decision: Decision
    sent: int

    @property
    def delivered(self) -> int:
        """Tokens of what would be delivered."""
        return self.sent if self.decision.text is None else self.decision.delivered_tokens


@filters.callback()
def group() -> None:
    """See what filters make of texts."""


@filters.command("try")
def try_(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…",
            help="Texts in UTF-8, also with .gz; - is the standard input.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(help="The model whose tokens are counted; else smollm2's, or characters."),
    ] = "",
    query: Annotated[
        str,
        typer.Option(
            help="Also leave out what has least to do with this, and the middle of large texts.",
            show_default=False,
        ),
    ] = "",
    lines: Annotated[
        int, typer.Option(min=0, help="Lines shown of each text, before and after.")
    ] = 8,
    json: Json = False,
) -> None:
    """Show how each file would be delivered to a model, what that saves, and why.

    Without --query nothing is lost: a form is taken only if it reads back the same.

    With --query, marks say what was left out; it is as if the question stood behind the text.
    """

    async def job() -> None:
        counting = await open_counting(model)
        tried = [_try(path, counting, query) for path in files]
        if json:
            _print_json(tried, counting)
        else:
            _print(tried, counting, query, lines)

    run(job, json=json)


@filters.command()
def report(
    bus: BusUrl = "",
    key_file: KeyFile = None,
    server_key: ServerKey = None,
    token: TokenFile = None,
    json: Json = False,
) -> None:
    """Show what filters saved on each edge, net of all that this provoked.

    An edge leads from who wrote a text to whose model read it.
    """

    from .filters_report import run_report

    join = joining(bus_url(bus), key_file, server_key, token)
    run(lambda: run_report(join, json=json), json=json)


def _try(path: Path, counting: Counting, query: str) -> _Tried:
    try:
        text = read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise UnreadableFile(str(path), f"it is no text in UTF-8 (byte {error.start})") from error
    context = TenantKey().empty().document(text)
    if query:
        context = context.ask(query)
    plan = plan_of([FilterRule(use=_WITH_QUERY if query else _LOSSLESS)], "")
    given = Pipeline(counting.count, Ledger(), open_lossy).deliver(context, plan, "")
    decision = given.receipts()[0].decision
    sent = decision.sent_tokens or estimate_tokens(text, counting.count)
    return _Tried(path, text, decision, sent)


def _print_json(tried: list[_Tried], counting: Counting) -> None:
    rows: list[dict[str, Any]] = [
        {
            "file": str(one.path),
            "form": one.decision.filters or None,
            "why": one.decision.why,
            "sent": one.sent,
            "delivered": one.delivered,
            "left_out": one.decision.left_out,
            "kept": _check(one) or "bytes",
            "text": one.text if one.decision.text is None else one.decision.text,
        }
        for one in tried
    ]
    print_json({"unit": counting.unit, "note": counting.note, "files": rows})


def _print(tried: list[_Tried], counting: Counting, query: str, lines: int) -> None:
    console = Console(highlight=False)
    for one in tried if lines else ():
        console.print(Rule(escape(one.path.name), align="left"))
        console.print(_excerpt(one.text, lines, "red"))
        if one.decision.text is not None:
            console.print(Rule(escape(one.decision.filters), align="left", style="dim"))
            console.print(_excerpt(one.decision.text, lines, "green"))
    console.print(_table(tried, counting))
    for one in tried:
        if not one.decision.left_out and (query or one.decision.text is None):
            console.print(escape(f"{one.path.name}: {one.decision.why}."))
    console.print(escape(counting.note), style="dim")
    if any(len(one.text) > ESTIMATED for one in tried):
        console.print(f"Of texts over {ESTIMATED:,} characters they may be estimates.", style="dim")


def _excerpt(text: str, lines: int, style: str) -> Text:
    """Return the first lines of a text, long ones cut, and say how much more there is."""
    shown = text.split("\n", lines)
    rest = shown[lines].count("\n") + 1 if len(shown) > lines and shown[lines] else 0
    excerpt = Text()
    for line in shown[:lines]:
        excerpt.append(line[:_SHOWN_CHARACTERS], style=style)
        if len(line) > _SHOWN_CHARACTERS:
            more = _counted(len(line) - _SHOWN_CHARACTERS, "more character")
            excerpt.append(f" … {more}", style="dim")
        excerpt.append("\n")
    if rest:
        excerpt.append(f"… {_counted(rest, 'more line')}\n", style="dim")
    return excerpt


def _table(tried: list[_Tried], counting: Counting) -> Table:
    table = Table()
    table.add_column("file", overflow="fold")
    table.add_column("form", overflow="fold")
    for name in (counting.unit, "after", "saved"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("kept", no_wrap=True)
    for one in tried:
        table.add_row(
            escape(one.path.name),
            escape(one.decision.filters or "as it is"),
            *_numbers(one.sent, one.delivered),
            _check(one),
        )
    if len(tried) > 1:
        table.add_section()
        sums = sum(one.sent for one in tried), sum(one.delivered for one in tried)
        table.add_row(f"{len(tried)} files", "", *_numbers(*sums), "")
    return table


def _numbers(sent: int, delivered: int) -> tuple[str, str, str]:
    return f"{sent:,}", f"{delivered:,}", f"{1 - delivered / sent:.0%}" if sent else ""


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _check(one: _Tried) -> str:
    """Say what of a text is there once what is delivered was read back: bytes, value, or less."""
    decision = one.decision
    if decision.text is None:
        return ""
    if decision.left_out:
        lines = sum(last - first + 1 for first, last in decision.left_out)
        return f"all but {_counted(lines, 'line')}"
    return is_kept(one.text, decision.text, decision.filters) or "NOT ALL"
