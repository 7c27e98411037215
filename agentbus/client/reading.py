"""The mailbox of an agent with a model, which has its contexts read ahead.

It is another kind of mailbox so that messages to other agents pay nothing for it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ..errors import AgentbusError
from ..telemetry import AgentMetrics
from .agent import Agent
from .blueprint import Blueprint
from .call import Call
from .delivery import Delivery
from .mailbox import Mailbox
from .prefetch import ANNOUNCED

__all__ = ["ReadingMailbox", "new_mailbox"]


class ReadingMailbox(Mailbox):
    """A mailbox that tells the prefetcher of contexts that come, of answers and other ends.

    What only says that a message is to come is not handled: the prefetcher takes it.
    """

    __slots__ = ()

    def _put(self, delivery: Delivery) -> None:
        if delivery.context is None:
            super()._put(delivery)
            return
        prefetcher = self._blueprint.node.prefetcher
        if delivery.schema == ANNOUNCED:
            prefetcher.announced(self, delivery)
            return
        super()._put(delivery)
        prefetcher.expect(self, delivery)

    def _answer(self, delivery: Delivery, value: Any, call: Call, started: float) -> None:
        super()._answer(delivery, value, call, started)
        if delivery.context is not None:
            self._blueprint.node.prefetcher.answered(self.name, delivery)

    async def _settle(
        self,
        delivery: Delivery,
        error: AgentbusError | None,
        started: float,
        task: asyncio.Task[object],
    ) -> None:
        self._blueprint.node.prefetcher.ended(delivery)
        await super()._settle(delivery, error, started, task)


def new_mailbox(agent: Agent, blueprint: Blueprint, metrics: AgentMetrics) -> Mailbox:
    """Return a mailbox of the kind that an agent needs."""
    kind = ReadingMailbox if blueprint.model and blueprint.node.settings.prefetch else Mailbox
    return kind(agent, blueprint, metrics)
