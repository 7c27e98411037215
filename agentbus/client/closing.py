"""Closing all links of a process."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from ..transport import Link

__all__ = ["close_links"]

_DROPPED_WITHIN = 1.5
"""Seconds in which nothing is left of links that were dropped: the socket of several over tcp ends
with the last of them, when what it may still send has been sent."""


async def close_links(links: Sequence[Link]) -> None:
    """Close links in order; if cancelled, drop those whose peers have not answered."""
    try:
        await _close(links)
    finally:
        for link in links:
            link.abort()
        with anyio.CancelScope(shield=True), anyio.move_on_after(_DROPPED_WITHIN):
            await _close(links)


async def _close(links: Sequence[Link]) -> None:
    async with anyio.create_task_group() as group:
        for link in links:
            group.start_soon(link.aclose)
