"""Plots as inline SVG: a few small functions, text in and text out.

All text is escaped; nothing is fetched, so that a page of them is whole in one file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["COLOURS", "Bar", "Part", "bars", "legend", "lines", "spans"]

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""Told apart also by the colour-blind (M. Okabe and K. Ito, 2008)."""

_WIDTH = 860
_LABEL = 190
_ROW = 26
_HEIGHT = 200
_AXIS = 72


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a bar: its length, its colour, and what is said where it is pointed at."""

    length: float
    colour: str
    title: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar made of parts, and its label."""

    label: str
    parts: tuple[Part, ...]


def _svg(width: float, height: float, body: Sequence[str]) -> str:
    box = f'viewBox="0 0 {width:g} {height:g}"'
    return f'<svg {box} role="img" xmlns="http://www.w3.org/2000/svg">{"".join(body)}</svg>'


def _rect(x: float, y: float, width: float, height: float, part: Part) -> str:
    place = f'x="{x:.2f}" y="{y:.2f}" width="{max(0.0, width):.2f}" height="{max(0.0, height):.2f}"'
    return f'<rect {place} fill="{part.colour}"><title>{escape(part.title)}</title></rect>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}">{escape(text)}</text>'


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spans(rows: Sequence[Bar], unit: str) -> str:
    """Return horizontal bars on one scale, the parts of each end to end."""
    longest = max((sum(part.length for part in row.parts) for row in rows), default=0) or 1
    scale = (_WIDTH - _LABEL - 90) / longest
    body = []
    for number, row in enumerate(rows):
        x, y = float(_LABEL), number * _ROW
        body.append(_text(_LABEL - 8, y + 17, row.label, "end"))
        for part in row.parts:
            body.append(_rect(x, y + 4, part.length * scale, _ROW - 8, part))
            x += part.length * scale
        total = sum(part.length for part in row.parts)
        body.append(_text(x + 6, y + 17, f"{_amount(total)} {unit}"))
    return _svg(_WIDTH, len(rows) * _ROW, body)


def bars(columns: Sequence[Bar], highest: float) -> str:
    """Return upright bars, the parts of each on top of each other; `highest` fills the height."""
    step = (_WIDTH / 2 - _AXIS) / max(1, len(columns))
    scale = (_HEIGHT - 30) / (highest or 1)
    body = [
        _text(_AXIS - 6, 18, f"{highest:,.0f}", "end"),
        _text(_AXIS - 6, _HEIGHT - 16, "0", "end"),
    ]
    for number, column in enumerate(columns):
        x, y = _AXIS + number * step, _HEIGHT - 20.0
        for part in column.parts:
            y -= part.length * scale
            body.append(_rect(x + 1, y, step - 2, part.length * scale, part))
        body.append(_text(x + step / 2, _HEIGHT - 5, column.label, "middle"))
    return _svg(_WIDTH / 2, _HEIGHT, body)


def lines(series: Mapping[str, Sequence[float]], colours: Mapping[str, str], unit: str) -> str:
    """Return one line a series over 1, 2, 3 …, on a logarithmic scale of whole decades.

    What is 0 or less lies at the bottom.
    """
    low, high = _decades([value for values in series.values() for value in values])
    count = max((len(values) for values in series.values()), default=1)
    step = (_WIDTH - _AXIS - 20) / max(1, count - 1)

    def height(value: float) -> float:
        share = (math.log10(value) - low) / (high - low) if value > 0 else 0.0
        return _HEIGHT - 20 - share * (_HEIGHT - 40)

    body = [_text(_AXIS + n * step, _HEIGHT - 3, str(n + 1), "middle") for n in range(count)]
    for decade in range(low, high + 1):
        y = height(10.0**decade)
        body.append(_text(_AXIS - 10, y + 4, _amount(10.0**decade), "end"))
        line = f'x1="{_AXIS}" x2="{_WIDTH}" y1="{y:.2f}" y2="{y:.2f}"'
        body.append(f'<line {line} stroke="#8888" stroke-width="0.5"/>')
    for name, values in series.items():
        points = [(_AXIS + n * step, height(value)) for n, value in enumerate(values)]
        path = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
        colour = colours[name]
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (x, y), (n, value) in zip(points, enumerate(values), strict=True):
            title = f"{name}, {n + 1}: {_amount(value)} {unit}"
            circle = f'<circle cx="{x:.2f}" cy="{y:.2f}" r="4" fill="{colour}">'
            body.append(f"{circle}<title>{escape(title)}</title></circle>")
    return _svg(_WIDTH, _HEIGHT, body)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Return the powers of ten between which all values lie, at least one apart."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    return low, max(high, low + 1)


def legend(colours: Mapping[str, str]) -> str:
    """Return a line that says which colour is what."""
    items = (
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>'
        for name, colour in colours.items()
    )
    return f'<p class="legend">{"".join(items)}</p>'
