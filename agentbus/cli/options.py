"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from .runtime import default_url

__all__ = ["BusUrl", "Json", "bus_url"]

BusUrl = Annotated[
    str,
    typer.Option(
        "--bus", help="The bus, unix:///path/to.sock or ab://host:port.", envvar="AGENTBUS_URL"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def bus_url(given: str) -> str:
    """Return the bus that was named, or else this user's daemon's."""
    return given or default_url()
