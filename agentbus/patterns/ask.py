"""One question to one agent, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..client import Reply, Requester
from ..context import Context
from ..telemetry import Budget

__all__ = ["Ask"]


@dataclass(frozen=True, slots=True)
class Ask:
    """What `call` is told: whom to ask what."""

    target: str
    payload: Any
    context: Context | None = None
    returns: Any = None

    async def call(
        self, asker: Requester, deadline: float | None, budget: Budget | None = None
    ) -> Reply[Any]:
        """Make the request. Errors as in `Requester.call`."""
        return await asker.call(
            self.target,
            self.payload,
            context=self.context,
            returns=self.returns,
            deadline=deadline,
            budget=budget,
        )
