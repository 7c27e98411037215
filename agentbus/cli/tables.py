"""Tables that fit the terminal: a narrow one is not shown the columns that matter least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from .terminal import visible

__all__ = ["fitting_table"]

_PADDING = 3
"""Columns of the terminal that one of the table takes beside its content; the frame takes 1 more."""


def fitting_table(
    width: int,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    *,
    names: Mapping[str, int],
    first_to_go: Sequence[str],
    total: Sequence[str | Text] = (),
) -> Table:
    """Return a table for a terminal of that width.

    Args:
        rows: of plain text: nothing in it is markup.
        names: columns that are folded where that is needed, and the characters that each shows at
            least in one line; the others are not folded.
        first_to_go: columns that are not shown where there is no room, in that order.
        total: a last row, set off from the others.
    """
    each = [*rows, *([total] if total else [])]
    needs = {
        name: max(map(_width, (name, *(row[place] for row in each))))
        for place, name in enumerate(columns)
    }
    needs |= {name: min(least, needs[name]) for name, least in names.items()}
    shown = list(columns)
    for name in first_to_go:
        if sum(needs[one] + _PADDING for one in shown) + 1 > width:
            shown.remove(name)
    table = Table()
    for name in shown:
        if name in names:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for row in each:
        if row is total:
            table.add_section()
        table.add_row(*(_text(row[columns.index(name)]) for name in shown))
    return table


def _text(cell: str | Text) -> Text:
    return Text(visible(cell)) if isinstance(cell, str) else cell


def _width(cell: str | Text) -> int:
    return max(map(cell_len, _text(cell).plain.split("\n")))
