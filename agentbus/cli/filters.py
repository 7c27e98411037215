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

from ..errors import UnreadableFile
from ..filters import LOSSLESS, Delivered, shortest
from .context_files import read_bytes
from .counting import Counting, open_counting
from .keys import KeyFile, ServerKey, TokenFile, joining
from .options import BusUrl, Json, bus_url
from .runtime import print_json, run

__all__ = ["filters"]

filters = typer.Typer(help="See what filters make of texts.", no_args_is_help=True)

_AS_IT_IS = "as it is"
_SHOWN_CHARACTERS = 240


class _Tried(NamedTuple):
    path: Path
    text: str
    delivered: Delivered


@filters.callback()
def group() -> None:
    """See what filters make of texts."""


@filters.command("try")
def try_(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE…", help="Texts in UTF-8, also with .gz.", show_default=False),
    ],
    model: Annotated[
        str,
        typer.Option(help="The model whose tokens are counted; else smollm2's, or characters."),
    ] = "",
    lines: Annotated[
        int, typer.Option(min=0, help="Lines shown of each text, before and after.")
    ] = 8,
    json: Json = False,
) -> None:
    """Show in which form each file would be delivered, and what that saves.

    Nothing is lost: a form is taken only if reading it back gave the same.
    """

    async def job() -> None:
        counting = await open_counting(model)
        tried = [_try(path, counting) for path in files]
        if json:
            _print_json(tried, counting)
        else:
            _print(tried, counting, lines)

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


def _try(path: Path, counting: Counting) -> _Tried:
    try:
        text = read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise UnreadableFile(str(path), f"it is no text in UTF-8 (byte {error.start})") from error
    return _Tried(path, text, shortest(text, LOSSLESS, counting.count))


def _print_json(tried: list[_Tried], counting: Counting) -> None:
    rows: list[dict[str, Any]] = [
        {
            "file": str(one.path),
            "form": one.delivered.form or None,
            "sent": one.delivered.sent_tokens,
            "delivered": one.delivered.delivered_tokens,
            "text": one.delivered.text,
        }
        for one in tried
    ]
    print_json({"unit": counting.unit, "note": counting.note, "files": rows})


def _print(tried: list[_Tried], counting: Counting, lines: int) -> None:
    console = Console(highlight=False)
    for one in tried if lines else ():
        console.print(Rule(escape(one.path.name), align="left"))
        console.print(_excerpt(one.text, lines, "red"))
        if one.delivered.form:
            console.print(Rule(escape(one.delivered.form), align="left", style="dim"))
            console.print(_excerpt(one.delivered.text, lines, "green"))
    console.print(_table(tried, counting))
    console.print(escape(counting.note), style="dim")


def _excerpt(text: str, lines: int, style: str) -> Text:
    """Return the first lines of a text, long ones cut, and say how much more there is."""
    shown = text.split("\n", lines)
    rest = shown[lines].count("\n") + 1 if len(shown) > lines and shown[lines] else 0
    excerpt = Text()
    for line in shown[:lines]:
        excerpt.append(line[:_SHOWN_CHARACTERS], style=style)
        if len(line) > _SHOWN_CHARACTERS:
            excerpt.append(f" … {len(line) - _SHOWN_CHARACTERS} more characters", style="dim")
        excerpt.append("\n")
    if rest:
        excerpt.append(f"… {rest} more lines\n", style="dim")
    return excerpt


def _table(tried: list[_Tried], counting: Counting) -> Table:
    table = Table("file", "form")
    for name in (f"{counting.unit} sent", "delivered", "saved"):
        table.add_column(name, justify="right")
    table.add_column("read back")
    for one in tried:
        found = one.delivered
        table.add_row(
            escape(one.path.name),
            found.form or _AS_IT_IS,
            *_numbers(found.sent_tokens, found.delivered_tokens),
            _class(found) if found.form else "",
        )
    if len(tried) > 1:
        sums = [
            sum(getattr(one.delivered, f"{n}_tokens") for one in tried)
            for n in ("sent", "delivered")
        ]
        table.add_section()
        table.add_row(f"{len(tried)} files", "", *_numbers(*sums), "")
    return table


def _numbers(sent: int, delivered: int) -> tuple[str, str, str]:
    return str(sent), str(delivered), f"{1 - delivered / sent:.0%}" if sent else ""


def _class(found: Delivered) -> str:
    form = next(form for form in LOSSLESS if form.name == found.form)
    return f"the same {form.exact}"
