"""Agents of which there is one instance for each key, made when the first message for it comes.

The idea is that of Orleans' virtual actors (P. Bernstein et al., 2014): an address always exists;
whether an instance lives behind it is the process's affair. Instances that have nothing to do are
stopped when there is no room for new ones, the longest unused first.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from ..errors import AgentbusError, HandlerFailed, MailboxFull, text_of
from ..names import Address
from ..telemetry import AgentMetrics, AgentReport
from .agent import Agent
from .blueprint import Blueprint
from .mailbox import Mailbox
from .reading import new_mailbox

__all__ = ["Instances"]

logger = logging.getLogger("agentbus")

_LOOKS = 64
"""Instances that are looked at, the longest unused first, for one that may be stopped."""


class Instances:
    """The instances of one agent class, by address. All count into the same metrics."""

    def __init__(
        self,
        name: str,
        kind: type[Agent],
        blueprint: Blueprint,
        limit: int,
    ) -> None:
        self.name = name
        self.role = blueprint.role
        self.kind = kind
        self._blueprint = blueprint
        self._pool = blueprint.pool
        self._limit = limit
        self._metrics = AgentMetrics()
        self._living: OrderedDict[str, Mailbox] = OrderedDict()
        self._stopping: dict[str, asyncio.Event] = {}

    def __iter__(self) -> Iterator[Mailbox]:
        return iter(self._living.values())

    def __len__(self) -> int:
        return len(self._living)

    def mailbox(self, address: str) -> Mailbox:
        """Return the mailbox of the instance at `name/key`, which is made if there is none.

        Raises:
            InvalidName: it is no address.
            MailboxFull: there is room for no more instances, and those there are have work to do.
            HandlerFailed: the class could not be instantiated.
        """
        found = self._living.get(address)
        if found is None:
            found = self._make(address)
        else:
            self._living.move_to_end(address)
        return found

    def report(self) -> AgentReport:
        """Return what all instances have counted together."""
        self._blueprint.log.sort_in()
        waiting = sum(mailbox.waiting for mailbox in self)
        return self._metrics.report(self.name, waiting, self._blueprint.model)

    def _make(self, address: str) -> Mailbox:
        Address.parse(address)
        if len(self._living) >= self._limit:
            self._make_room()
        try:
            agent = self.kind()
        except Exception as error:
            logger.exception("an instance of %s could not be made", self.kind.__name__)
            raise HandlerFailed(address, type(error).__name__, text_of(error)) from error
        agent.name = address
        mailbox = self._living[address] = new_mailbox(agent, self._blueprint, self._metrics)
        self._pool.run(_Start(self, mailbox, self._stopping.get(address)))
        return mailbox

    def _make_room(self) -> None:
        if len(self._stopping) >= self._limit + _LOOKS:
            raise MailboxFull(self.name, self._limit)
        for address, mailbox in islice(self._living.items(), _LOOKS):
            if mailbox.is_idle:
                del self._living[address]
                self._stopping[address] = asyncio.Event()
                self._pool.run(_Stop(self, mailbox.agent))
                return
        raise MailboxFull(self.name, self._limit)

    def failed(self, mailbox: Mailbox, error: AgentbusError) -> None:
        """An instance could not start: what waits for it fails, and the next message tries again."""
        if self._living.get(mailbox.name) is mailbox:
            del self._living[mailbox.name]
        mailbox.close(error)

    def stopped(self, address: str) -> None:
        """An instance has stopped: one that is to follow it may start."""
        self._stopping.pop(address).set()


@dataclass(slots=True)
class _Start:
    """Starts an instance, after the one before it under its address has stopped."""

    instances: Instances
    mailbox: Mailbox
    before: asyncio.Event | None

    async def drain(self, task: asyncio.Task[object]) -> None:
        agent = self.mailbox.agent
        try:
            if self.before is not None:
                await self.before.wait()
            await agent.started()
        except Exception as error:
            logger.error("agent %r failed to start", agent.name, exc_info=error)
            own = error if isinstance(error, AgentbusError) else None
            reason = own or HandlerFailed(agent.name, type(error).__name__, text_of(error))
            self.instances.failed(self.mailbox, reason)
        else:
            self.mailbox.open(agent.concurrency)


@dataclass(slots=True)
class _Stop:
    """Stops an instance."""

    instances: Instances
    agent: Agent

    async def drain(self, task: asyncio.Task[object]) -> None:
        try:
            await self.agent.stopped()
        except Exception:
            logger.exception("agent %r failed to stop", self.agent.name)
        finally:
            self.instances.stopped(self.agent.name)
