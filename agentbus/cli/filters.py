"""`agentbus filters`: what filters make of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .keys import KeyFile, ServerKey, TokenFile, joining
from .options import BusUrl, Json, bus_url
from .runtime import run

__all__ = ["filters"]

filters = typer.Typer(help="See what filters make of texts.", no_args_is_help=True)


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
        str, typer.Option(help="What is asked behind all files.", show_default=False)
    ] = "",
    use: Annotated[
        str,
        typer.Option(
            metavar="NAME[,NAME]",
            help="Filters, as in a rule; else lossless, with --query lossless,strip,extract,offload.",
            show_default=False,
        ),
    ] = "",
    keep: Annotated[
        float, typer.Option(help="The share of a text's tokens that extract leaves.")
    ] = 0.3,
    lines: Annotated[
        int, typer.Option(min=0, help="Lines shown of each text, before and after.")
    ] = 8,
    json: Json = False,
) -> None:
    """Show how files would be delivered to a model, what that saves, and why.

    Together they are documents of one prompt, one behind the other, so a file may refer to another.

    Of a rule's filters, strip, offload and extract leave something out, and say so in marks.

    By the others nothing is lost: a form is taken only if it reads back the same.
    """
    from .filters_try import run_try, tried_rule

    async def job() -> None:
        rule = tried_rule(use, keep, query)
        await run_try(files, rule, query, model=model, lines=lines, json=json)

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
