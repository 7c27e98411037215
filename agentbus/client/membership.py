"""This process's place on the bus that it joined: its names there, and its way back when the bus's
home, the process that it was told to connect to, went away without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING, Any

from ..errors import AgentbusError, DeadlineExceeded, PeerLost
from ..routing import BROKER, Listener, Register, Unregister
from ..wire import Backoff
from .origin import Origin

if TYPE_CHECKING:
    from .node import Node

__all__ = ["Membership"]

logger = logging.getLogger("agentbus")


class Membership:
    """Registers names, and does so again with a home that came back."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._path = ""
        self._slots: dict[str, int] = {}
        """Names that are registered, each with its slots; see `Register`."""
        self._rejoining = False

    async def join(self, path: str, origin: Origin) -> None:
        """Connect to the home. Raises as `Routes.connect_home`."""
        self._path = path
        await self._node.routes.connect_home(path, origin)

    async def listen(self) -> Listener:
        """Accept links from now on, if this process can; returns where."""
        node = self._node
        if node.routes.home_is_broker:
            await node.routes.listen_beside_home(self._path, node.name)
        return Listener(node.name, node.routes.listens_at, node.routes.shown_key)

    async def register(self, name: str, slots: int) -> None:
        """Take a name for an agent of this process, where a broker keeps names.

        Raises:
            NameTaken: another process has it.
            PeerLost: the home went away.
        """
        routes = self._node.routes
        if not routes.home_is_broker:
            return
        await routes.listen_beside_home(self._path, self._node.name)
        role = self._node.hosts.roles()[name]
        await self._ask(Register(name, routes.listens_at, role, slots, routes.shown_key))
        self._slots[name] = slots

    async def unregister(self, name: str) -> None:
        """Let go of a name, if it is this process's; a bus that is ending has let go of all."""
        self._slots.pop(name, None)
        if self._node.routes.home_is_broker:
            with contextlib.suppress(AgentbusError):
                await self._ask(Unregister(name))

    def home_left(self, home: str, *, closed: bool) -> None:
        """The link to the home is over; if it was not closed in order, try to come back."""
        node = self._node
        if self._rejoining:
            return
        if closed or node.closed or node.draining or not node.settings.rejoin_timeout:
            self._end(home, closed=closed)
            return
        self._rejoining = True
        seconds = node.settings.rejoin_timeout
        logger.warning("%s went away; this process tries to come back for %g s", home, seconds)
        node.pool.run(_Rejoining(self, home))

    async def rejoin(self, home: str) -> None:
        """Try to come back, each time after a longer while, until the settings' time is over."""
        backoff = Backoff()
        try:
            async with asyncio.timeout(self._node.settings.rejoin_timeout):
                while True:
                    await asyncio.sleep(backoff.delay(random.random()))
                    if await self._join_again():
                        return
        except TimeoutError:
            self._end(home, closed=False)
        finally:
            self._rejoining = False

    async def _join_again(self) -> bool:
        """Come back with all names and subscriptions; returns whether that could be done."""
        node = self._node
        patterns = node.topics.patterns()
        try:
            await node.routes.connect_home(self._path, node.program_origin(None))
            for name, slots in tuple(self._slots.items()):
                await self.register(name, slots)
            for pattern in patterns:
                if pattern in node.topics.patterns():
                    await node.tell_home(f"+{pattern}")
        except AgentbusError as error:
            logger.info("this process is not back yet: %s", error)
            return False
        if node.routes.home is None:
            return False
        logger.warning("back at %s; what was published meanwhile is lost here", self._path)
        return True

    def _end(self, home: str, *, closed: bool) -> None:
        self._node.topics.end(PeerLost(home))
        self._node.routes.home_over(closed=closed)

    async def _ask(self, payload: Any) -> None:
        node = self._node
        pending = node.pending(BROKER, None, type(None), stream=False)
        origin = node.program_origin(None)
        try:
            async with asyncio.timeout_at(origin.deadline_at):
                await node.send(pending, payload, origin)
                await pending.wait()
        except TimeoutError:
            raise DeadlineExceeded(BROKER) from None


class _Rejoining:
    """A `Workload`: comes back."""

    def __init__(self, membership: Membership, home: str) -> None:
        self._membership = membership
        self._home = home

    async def drain(self, task: asyncio.Task[object]) -> None:
        """Try until this process is back, or too much time has passed."""
        await self._membership.rejoin(self._home)
