"""What a person sees of a run: hops as they happen, the replay's progress, the final table.

Feeds on events and reports. On a terminal text appears as it streams and the replay has a bar;
elsewhere (a pipe, a log) the same is printed as whole plain lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from .events import Event, HopEnded, HopResult, HopStarted, HopText
from .events import Progress as OnEvent
from .table import Comparison, sentences, side_by_side

__all__ = ["LiveView", "replay_view", "show_comparison"]

_MS = 1000.0


def _printable(text: str) -> str:
    """Keep a model's or document's text from steering the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _figures(result: HopResult) -> str:
    return (
        f"{result.sent_bytes:,} bytes sent · {result.prefilled:,} tokens read, "
        f"{result.reused:,} reused · {result.decoded} written · "
        f"first text after {result.ttft_s * _MS:,.0f} ms · {result.wall_s:.2f} s"
    )


class LiveView:
    """Shows the hops of the live run. Pass it as the run's `progress`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._parts: list[str] = []

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case HopStarted():
                self._parts = []
                title = Text(f"{event.index + 1:>2}  ", style="dim")
                title.append(f"{event.source} → {event.target}", style="bold cyan")
                title.append(f"  {event.transport}", style="dim")
                self._console.print(title)
            case HopText():
                self._text(_printable(event.text))
            case HopEnded():
                self._end(event.result)

    def _text(self, text: str) -> None:
        if not self._parts:
            text = text.lstrip()
        self._parts.append(text)
        if self._console.is_terminal:
            self._console.print(Text(text), end="", soft_wrap=True)

    def _end(self, result: HopResult) -> None:
        if self._console.is_terminal:
            self._console.print()
        else:
            self._console.print(Text("".join(self._parts)), soft_wrap=True)
        self._console.print(Text(f"    {_figures(result)}", style="dim"), soft_wrap=True)


@contextmanager
def replay_view(console: Console, *, hops: int, ways: int) -> Iterator[OnEvent]:
    """Show the replay's progress: a bar on a terminal, else one line a hop of each way."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("replaying", total=hops * ways)

        def show(event: Event) -> None:
            match event:
                case HopStarted():
                    bar.update(task, description=f"hop {event.index + 1}, {event.way}")
                case HopEnded():
                    bar.advance(task)

        yield show


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, event: Event) -> None:
        if isinstance(event, HopEnded):
            line = f"hop {event.index + 1}, {event.way}: {_figures(event.result)}"
            self._console.print(Text(line), soft_wrap=True)


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Print the table and what it says."""
    console.print(side_by_side(comparison))
    for sentence in sentences(comparison):
        console.print(Text(sentence))
