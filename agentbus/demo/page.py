"""The comparison as a page: one HTML file that needs nothing else, with plots of every hop."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from html import escape
from pathlib import Path

from .events import HopResult
from .svg import COLOURS, Bar, Part, bars, legend, lines, spans
from .table import MEANINGS, Comparison, Ran, WayReport, sentences, side_by_side

__all__ = ["render_page", "write_page"]

_NEW, _REUSED = COLOURS[5], COLOURS[4]
_WAITING, _WRITING = COLOURS[1], COLOURS[0]
_MS = 1000.0
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 900px; margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%; height: auto; } svg text { fill: currentColor; font-size: 12px; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem; text-align: right; }
th:first-child, td:first-child { text-align: left; white-space: pre; }
tr { border-bottom: 1px solid #8884; }
.legend span { margin-right: 1.2rem; } .legend i { display: inline-block; width: .8em;
height: .8em; margin-right: .4em; } .pair { display: grid; gap: 0 1rem;
grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.wide { overflow-x: auto; } dt { font-weight: bold; } dd { margin: 0 0 .4rem 1rem; }
figure { margin: 0 0 1rem; } blockquote { white-space: pre-wrap; margin: .2rem 0 1rem 1rem; }
"""


def write_page(comparison: Comparison, path: Path | None = None) -> Path:
    """Write the page, to a new file among the temporary ones by default; returns where it is.

    Raises:
        OSError: it cannot be written.
    """
    if path is None:
        with tempfile.NamedTemporaryFile(
            prefix="agentbus-hops-", suffix=".html", delete=False
        ) as file:
            path = Path(file.name)
    path.write_text(render_page(comparison), encoding="utf-8")
    return path


def render_page(comparison: Comparison) -> str:
    """Return the page as text."""
    ways = comparison.ways
    colours = {way.name: COLOURS[n % len(COLOURS)] for n, way in enumerate(ways)}
    ttft = {way.name: [hop.ttft_s * _MS for hop in way.results] for way in ways}
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>agentbus: one conversation in {len(ways)} ways</title><style>{_STYLE}</style>",
        f"<h1>One conversation in {len(ways)} ways</h1>",
        _ran(comparison.ran),
        _meanings(ways),
        _table(comparison),
        *(f"<p>{escape(line)}</p>" for line in sentences(comparison)),
        "<h2>Timeline of the hops</h2>",
        legend({"until the first text": _WAITING, "while text came": _WRITING}),
        spans([Bar(way.name, _times(way)) for way in ways], "s"),
        "<h2>Time to first text by hop, ms, on a logarithmic scale</h2>",
        legend(colours),
        lines(ttft, colours, "ms"),
        "<h2>Tokens of the prompts by hop</h2>",
        legend({"prefilled": _NEW, "reused": _REUSED}),
        _by_hop(ways, _tokens),
        "<h2>Bytes sent by hop</h2>",
        _by_hop(ways, lambda hop: (Part(hop.sent_bytes, _WRITING, f"{hop.sent_bytes:,} bytes"),)),
        "<h2>The conversation</h2>",
        _conversation(comparison),
        "</html>",
    ]
    return "\n".join(parts)


def _ran(ran: Ran) -> str:
    said = f"Model: {ran.model}. Run at {ran.at} on {ran.machine}; engines with {ran.engine}."
    return f"<p>{escape(said)}</p>"


def _meanings(ways: tuple[WayReport, ...]) -> str:
    items = (
        f"<dt>{escape(way.name)}</dt><dd>{escape(meaning)}</dd>"
        for way in ways
        if (meaning := MEANINGS.get(way.name))
    )
    return f"<dl>{''.join(items)}</dl>"


def _times(way: WayReport) -> tuple[Part, ...]:
    found = []
    for number, hop in enumerate(way.results, 1):
        said = f"hop {number}: {hop.ttft_s * _MS:,.0f} ms to the first text, {hop.wall_s:.2f} s"
        found.append(Part(hop.ttft_s, _WAITING, said))
        found.append(Part(hop.wall_s - hop.ttft_s, _WRITING, said))
    return tuple(found)


def _tokens(hop: HopResult) -> tuple[Part, ...]:
    return (
        Part(hop.reused, _REUSED, f"{hop.reused:,} tokens reused"),
        Part(hop.prefilled, _NEW, f"{hop.prefilled:,} tokens prefilled"),
    )


def _by_hop(ways: tuple[WayReport, ...], parts: Callable[[HopResult], tuple[Part, ...]]) -> str:
    """Return a plot for each way, all on one scale."""
    columns = {
        way.name: [Bar(str(n), parts(hop)) for n, hop in enumerate(way.results, 1)] for way in ways
    }
    highest = max(sum(part.length for part in bar.parts) for way in columns.values() for bar in way)
    figures = (
        f"<figure><figcaption>{escape(name)}</figcaption>{bars(found, highest)}</figure>"
        for name, found in columns.items()
    )
    return f"<div class='pair'>{''.join(figures)}</div>"


def _table(comparison: Comparison) -> str:
    table = side_by_side(comparison)
    names = [str(column.header).replace("\n", "") for column in table.columns]
    heads = "".join(f"<th>{escape(name)}</th>" for name in names)
    cells = zip(*(list(column.cells) for column in table.columns), strict=True)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in cells
    )
    return f"<div class='wide'><table><tr>{heads}</tr>{rows}</table></div>"


def _conversation(comparison: Comparison) -> str:
    said = comparison.conversation
    parts = [f"<p><b>Question</b></p><blockquote>{escape(said.question)}</blockquote>"]
    for number, hop in enumerate(said.hops, 1):
        head = f"{number}. {hop.source} to {hop.target}: {hop.ask}"
        parts.append(f"<p><b>{escape(head)}</b></p><blockquote>{escape(hop.text)}</blockquote>")
    return "".join(parts)
