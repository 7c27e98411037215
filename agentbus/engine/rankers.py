"""Rankers of sentences by name, for filters that keep what a question asks for.

They are entry points of the group `agentbus.rankers`; one is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

import anyio

from ..errors import ConfigError
from ..filters import Ranker

__all__ = ["RANKERS", "check_ranker", "open_ranker"]

RANKERS = "agentbus.rankers"
"""Group of entry points; each names a function that opens a ranker, and may take a while."""


async def open_ranker(name: str) -> Ranker | None:
    """Open a ranker; None, which is BM25, for the empty name.

    Raises:
        ConfigError: there is no such ranker, or its packages are not installed.
        EngineError: its model cannot be had; the error says what to do.
    """
    if not name:
        return None
    point = _find(name)

    def load() -> Ranker:
        make: Callable[[], Ranker] = point.load()
        return make()

    return await anyio.to_thread.run_sync(load)


def check_ranker(name: str) -> None:
    """Check that there is such a ranker, or that the name is empty; nothing is imported.

    Raises:
        ConfigError: there is none.
    """
    if name:
        _find(name)


def _find(name: str) -> EntryPoint:
    points = {point.name: point for point in entry_points(group=RANKERS)}
    if name not in points:
        known = ", ".join(sorted(points)) or "none is installed"
        raise ConfigError("ranker", f"there is no {name!r}; there are: {known}")
    return points[name]
