"""What begins and ends in a process: its part in the bus, its agents, its subscriptions.

Clean-up is done whether or not the task that does it is cancelled, within a bound.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
from anyio.to_thread import run_sync

from ..config import EngineSettings
from ..context import Book
from ..errors import Closed
from ..export import open_exporter
from ..routing import PRESENCE, Presence
from .agent import Agent
from .closing import close_links
from .models import ModelAgent
from .node import Node
from .subscription import Subscription
from .tracing import ExportLoop

__all__ = ["Lifetime"]

logger = logging.getLogger("agentbus")


class Lifetime:
    """Begins and ends what lives in one process."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._export: ExportLoop | None = None

    async def begin(self, connect: str, listen: str) -> None:
        """Listen for other processes and join one, as far as there is an address for it."""
        node = self._node
        try:
            await self._open_export()
            if listen:
                await node.routes.listen(listen)
            if connect:
                await node.membership.join(connect, node.program_origin(None))
        except BaseException:
            await self.end()
            raise

    async def end(self) -> None:
        """Stop all agents and close all links; who is cancelled meanwhile hears so when it is done."""
        # A shield keeps off what anyio cancels. `Task.cancel` goes through it, so this needs a task.
        ending = asyncio.ensure_future(self._end(asyncio.current_task()))
        cancelled: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):
            while not ending.done():
                try:
                    await asyncio.wait([ending])
                except asyncio.CancelledError as error:
                    cancelled = error
        ending.result()
        if cancelled is not None:
            raise cancelled

    async def _end(self, closer: asyncio.Task[object] | None) -> None:
        node = self._node
        node.closed = True
        node.topics.end(None)
        await self._briefly(node.routes.aclose)
        for mailbox in node.hosts.living():
            mailbox.close()
        node.grants.forget_all()
        await self._briefly(node.direct_topics.settle)
        await self._briefly(lambda: node.pool.aclose(closer))
        await self._briefly(self._stop_all)
        await self._briefly(lambda: close_links([peer.link for peer in node.peers]))
        if self._export is not None:
            await self._briefly(self._export.aclose)
        node.topics.delayed.close()
        node.direct.close()
        node.direct_topics.close()
        node.timer.close()

    async def _open_export(self) -> None:
        node = self._node
        where, log = node.settings.telemetry.export, node.observer.spans
        if where and log is not None:
            self._export = ExportLoop(log, await run_sync(open_exporter, where))
            node.pool.run(self._export)

    async def _briefly(
        self, job: Callable[[], Awaitable[None]], seconds: float | None = None
    ) -> None:
        bound = self._node.settings.close_timeout if seconds is None else seconds
        with anyio.CancelScope(shield=True), anyio.move_on_after(bound):
            await job()

    async def serve(self, model: str, name: str, settings: EngineSettings) -> None:
        """Start an engine and its agent `name`. Raises as `Bus.serve`."""
        from ..engine import open_engine, open_ranker

        ranker = await open_ranker(settings.ranker)
        book = await run_sync(_open_book, settings.deliveries)
        engine = None
        try:
            engine = await open_engine(model, settings)
            await self.start(ModelAgent(engine, book, ranker), name, "")
        except BaseException:
            if book is not None:
                book.close()
            with anyio.CancelScope(shield=True):
                if engine is not None:
                    await engine.aclose()
            raise

    async def start(self, agent: Agent, name: str, model: str, slots: int = 0) -> None:
        """Start an agent; with `slots`, as one of a group that takes so many requests at once."""
        node = self._node
        agent.name = name
        mailbox = node.hosts.host(agent, name, model)
        try:
            await node.membership.register(name, slots)
            await agent.started()
            mailbox.open(agent.concurrency)
            self._announce(name)
        except BaseException:
            await self._let_go(name)
            raise

    async def start_each(self, kind: type[Agent], name: str, model: str) -> None:
        """Have an instance of its own answer for each key."""
        node = self._node
        node.hosts.host_each(kind, name, model)
        try:
            await node.membership.register(name, slots=0)
            self._announce(name)
        except BaseException:
            await self._let_go(name)
            raise

    async def _let_go(self, name: str) -> None:
        """Free a name, which a broker may have for this process."""
        self._node.hosts.release(name)
        await self._briefly(lambda: self._node.membership.unregister(name))

    def _announce(self, name: str) -> None:
        """Say that an agent is there, where no broker does."""
        node = self._node
        if not node.routes.home_is_broker:
            node.publish(PRESENCE, Presence(name, node.name, present=True), "")

    async def _stop_all(self) -> None:
        """Tell all agents at once that need to be told, so that none waits for another."""
        async with anyio.create_task_group() as group:
            for mailbox in self._node.hosts.living():
                if type(mailbox.agent).stopped is not Agent.stopped:
                    group.start_soon(_stop, mailbox.agent)

    async def subscribe(self, subscription: Subscription) -> None:
        """Have messages that match reach a subscription.

        Raises:
            Closed: the bus is closed.
            PeerLost: the process that this one joined went away.
        """
        node = self._node
        if node.closed:
            raise Closed("bus")
        node.topics.add(subscription)
        try:
            bypass = node.topics.bypass
            if bypass is not None:
                await bypass.tell(bypass.changed())
            await node.tell_home(f"+{subscription.pattern}")
        except BaseException:
            # The home may have heard it: it must not send here for ever.
            await self.unsubscribe(subscription)
            raise

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Send a subscription nothing more."""
        node = self._node
        node.topics.remove(subscription)
        bypass = node.topics.bypass
        if bypass is not None:
            await bypass.tell(bypass.changed())
        home = node.routes.home
        if home is not None and not node.closed:
            # Over a broken link it is said, but no answer comes for now.
            seconds = 0 if home.link.broken else None
            await self._briefly(lambda: node.tell_home(f"-{subscription.pattern}"), seconds)


def _open_book(path: str) -> Book | None:
    """Open the file of deliveries. Raises `ConfigError` if it cannot be used."""
    from ..storage import DeliveryFile

    return DeliveryFile.open(Path(path)) if path else None


async def _stop(agent: Agent) -> None:
    try:
        await agent.stopped()
    except Exception:
        logger.exception("agent %r failed to stop", agent.name)
