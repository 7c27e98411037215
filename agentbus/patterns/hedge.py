"""A second copy of a slow request, to somebody else; the first answer counts.

The method is that of J. Dean and L. A. Barroso, "The Tail at Scale" (CACM 2013): hedging after
about the expected 95th percentile shortens the tail for a few per cent more requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio

from ..client import Reply, Requester
from ..errors import AgentbusError, ConfigError
from .ask import Ask

__all__ = ["hedged"]


async def hedged(
    asker: Requester, asks: Sequence[Ask], *, after: float, deadline: float | None = None
) -> Reply[Any]:
    """Ask the first; ask the next too when `after` seconds passed, or when all before failed.

    The first reply is returned and the others are cancelled: only ask what may be done twice. All
    copies share the deadline, in seconds from now. What is left of the asker's budget, if it has one,
    is shared out equally; a copy that is cancelled counts as having spent its share.

    Raises:
        ConfigError: there is nobody to ask, or `after` is negative.
        AgentbusError: all failed; the error is that of the last one asked.
    """
    if not asks or not after >= 0:
        raise ConfigError("hedged", "takes one question or more, and a time that is not negative")
    until = anyio.current_time() + deadline if deadline is not None else None
    budget = asker.budget
    share = None if budget is None else budget.share(len(asks))
    won: list[Reply[Any]] = []
    errors: dict[int, AgentbusError] = {}

    async def ask(place: int, ended: anyio.Event) -> None:
        left = None if until is None else until - anyio.current_time()
        try:
            won.append(await asks[place].call(asker, left, share))
            group.cancel_scope.cancel()
        except AgentbusError as error:
            errors[place] = error
        ended.set()

    async with anyio.create_task_group() as group:
        for place in range(len(asks)):
            ended = anyio.Event()
            group.start_soon(ask, place, ended)
            with anyio.move_on_after(after):
                await ended.wait()
    if won:
        return won[0]
    raise errors[len(asks) - 1]
