"""A request made again where it was refused, under one deadline."""

from __future__ import annotations

import math
import random
from typing import Any

import anyio

from ..client import Reply, Requester
from ..errors import (
    AgentbusError,
    ConfigError,
    DeadlineExceeded,
    Draining,
    LinkFull,
    MailboxFull,
    NoResponder,
    PeerLost,
)
from .ask import Ask

__all__ = ["retried"]

_REFUSED = (NoResponder, MailboxFull, LinkFull, Draining)
"""The request was not taken: making it again does nothing twice."""
_LONGEST = 30.0
"""Seconds between two attempts at most."""
_SHORTEST = 0.001
"""Seconds before the deadline in which no other attempt is begun."""


async def retried(
    asker: Requester,
    ask: Ask,
    *,
    attempts: int = 3,
    backoff: float = 0.05,
    deadline: float | None = None,
    idempotent: bool = False,
) -> Reply[Any]:
    """Ask; where the request was refused, wait and ask again, `attempts` times in all.

    The wait is random up to `backoff` seconds, doubled each time ("full jitter", M. Brooker, AWS
    Architecture Blog, 2015). `idempotent` says that the request may be handled twice: then it is
    made again also when the callee's process was lost. `deadline`, in seconds from now, holds for
    all attempts together: no wait goes beyond it.

    Raises:
        ConfigError: attempts or back-off make no sense.
        AgentbusError: the error of the last attempt.
    """
    if attempts < 1 or not backoff >= 0:
        raise ConfigError("retried", "takes one attempt or more, and a back-off not negative")
    again = (*_REFUSED, PeerLost) if idempotent else _REFUSED
    until = None if deadline is None else anyio.current_time() + deadline
    for attempt in range(attempts):
        left = None if until is None else until - anyio.current_time()
        try:
            return await ask.call(asker, left)
        except again as error:
            wait = random.uniform(0, min(backoff * 2**attempt, _LONGEST))
            left = math.inf if until is None else until - anyio.current_time()
            if attempt == attempts - 1 or left < _SHORTEST:
                raise
            wait = min(wait, left / 2)  # there is time for another attempt behind it
            reason: AgentbusError = error
            await anyio.sleep(wait)
    raise DeadlineExceeded(ask.target) from reason
