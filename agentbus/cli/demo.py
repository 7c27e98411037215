"""The `demo` command: the live run, the comparison, and what a person sees of both."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ..demo import (
    DEFAULT_QUESTION,
    MEANINGS,
    AgentbusWay,
    Comparison,
    LiveView,
    check_comparable,
    compare,
    engine_settings,
    hold,
    load_default_document,
    load_document,
    replay_view,
    show_comparison,
    stage,
    steps,
    to_json,
    write_page,
)
from ..errors import ConfigError
from .runtime import print_json

__all__ = ["run_demo"]

_WAYS = 4


def _tell_page(console: Console, comparison: Comparison) -> None:
    """Write the page with plots and say where it is; the figures stand without it, too."""
    try:
        said = f"Page with plots of every hop: {write_page(comparison)}"
    except OSError as error:
        said = f"The page with plots could not be written: {error}"
    console.print(Text(said), soft_wrap=True)


async def run_demo(
    path: Path | None, question: str, *, model: str, tokens: int, json: bool
) -> None:
    """Run the demo; with `json` one object ends the run, and people read on standard error.

    Raises:
        AgentbusError: the input, the model or a process failed.
    """
    check_comparable(model)
    document = load_default_document() if path is None else load_document(path)
    if path is not None and not question:
        raise ConfigError("question", "say what is asked about a document of your own: --question")
    settings = engine_settings()
    console = Console(file=sys.stderr if json else None)
    asked = question or DEFAULT_QUESTION
    console.print(Text(f"Starting a broker, an engine ({model}) and two workers …", style="dim"))
    async with stage(model, settings) as team:
        console.print(Text(f"Question: {asked}\n"))
        conversation, _ = await hold(
            team, document, asked, max_tokens=tokens, progress=LiveView(console)
        )
    console.print(
        Text("\nThe same conversation again, in four ways, each started anew:", style="dim")
    )
    for name, meaning in MEANINGS.items():
        console.print(Text(f"  {name}: {meaning}", style="dim"))
    with replay_view(console, hops=len(steps()), ways=_WAYS) as progress:
        async with stage(model, settings, recorded=conversation) as team:
            comparison = await compare(
                conversation,
                AgentbusWay(team, conversation),
                model_spec=model,
                settings=settings,
                progress=progress,
            )
    show_comparison(console, comparison)
    _tell_page(console, comparison)
    if json:
        print_json(to_json(comparison))
