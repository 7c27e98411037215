"""The bus as users see it: open it, spawn agents, ask them, publish and subscribe."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup, TaskStatus

from ..config import BusSettings, EngineSettings, Keys
from ..context import Context, TenantKey
from ..errors import AgentbusError, Closed, ConfigError
from ..names import check_agent_name, check_pattern
from ..routing import BROKER, BUS, AgentList, ListAgents, Location, Register, Unregister
from ..transport import TCP_SCHEME
from .agent import Agent
from .mailbox import Mailbox
from .models import ModelAgent, model_agent_name
from .node import Node
from .payload import payload_type
from .requester import Origin, Requester
from .subscription import Subscription

__all__ = ["Bus"]

logger = logging.getLogger("agentbus")

_SCHEME = "unix://"


class Bus(Requester):
    """This process's place on a bus. Make it with `Bus.open`, use it in `async with`."""

    __slots__ = (
        "_connect",
        "_keys",
        "_listen",
        "_name",
        "_node",
        "_settings",
        "_tasks",
        "_tenant",
    )

    def __init__(
        self, connect: str, listen: str, name: str, settings: BusSettings, keys: Keys | None
    ) -> None:
        self._connect = connect
        self._listen = listen
        self._name = f"{name or 'bus'}-{secrets.token_hex(4)}"
        self._settings = settings
        self._keys = keys
        self._tenant = TenantKey()
        self._node: Node | None = None
        self._tasks: TaskGroup | None = None

    @staticmethod
    def open(
        url: str = "",
        *,
        listen: str = "",
        name: str = "",
        settings: BusSettings | None = None,
        keys: Keys | None = None,
    ) -> Bus:
        """Return a bus to enter with `async with`.

        Args:
            url: nothing for a bus within this process; `unix:///path/to.sock` or
                `ab://host:port` to join the process that listens there, a daemon or any bus
                opened with `listen`.
            listen: a socket path, or `ab://host:port`, at which other processes may join this one.
            name: how this process is called in logs and errors.
            settings: bounds and times.
            keys: with which `ab://` is encrypted, and who is let in; it is not used without them.

        Raises:
            ConfigError: the url or path cannot be used, or lacks keys.
            InvalidName: the name is not well formed.
        """
        if name:
            check_agent_name(name)
        if url and (not url.startswith((_SCHEME, TCP_SCHEME)) or url == _SCHEME):
            problem = f"{url!r} is not of the form unix:///path/to.sock or ab://host:port"
            raise ConfigError("url", problem)
        return Bus(url.removeprefix(_SCHEME), listen, name, settings or BusSettings(), keys)

    async def __aenter__(self) -> Self:
        node = self._node = Node(self._settings, self._tenant, self._name, self._keys)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        try:
            if self._listen:
                await node.routes.listen(self._listen)
            if self._connect:
                await node.routes.connect_home(self._connect, self._origin(None))
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        node, tasks = self._entered()
        node.closed = True
        node.end_subscriptions(None)
        await self._briefly(node.routes.aclose)
        for hosted in node.agents.values():
            hosted.mailbox.close()
        tasks.cancel_scope.cancel()
        # The body's own exception is raised by Python; a group around it would hide its type.
        await tasks.__aexit__(None, None, None)
        await self._briefly(node.peers.aclose)
        node.timer.close()

    async def _briefly(self, job: Callable[[], Awaitable[None]]) -> None:
        """Finish a piece of clean-up, whether or not this task is cancelled, within a bound."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(self._settings.close_timeout):
            await job()

    @property
    def name(self) -> str:
        """This process's name on the bus."""
        return self._name

    @property
    def listens_at(self) -> str:
        """The socket or url at which other processes may join; empty if there is none."""
        return self._entered()[0].routes.listens_at

    def context(self) -> Context:
        """Return an empty context. It is a value: appending gives a new one."""
        return self._tenant.empty()

    async def spawn(self, agent: Agent | type[Agent], *, name: str = "", model: str = "") -> str:
        """Start an agent in this process and return its name.

        Args:
            agent: an agent, or a class that can be made without arguments.
            name: its address on the bus; by default its class's name in lower case.
            model: the model behind `call.generate`. On a bus within this process its engine is
                started with the first agent that names it; on a daemon's bus a worker serves it.

        Raises:
            NameTaken: an agent of that name is on the bus.
            ConfigError, InvalidName: handlers or name are not well formed.
            ModelNotFound, ModelBroken: the model cannot be served.
            Closed: the bus is closed.
        """
        node, _ = self._open()
        made = agent if isinstance(agent, Agent) else agent()
        made.name = check_agent_name(name or type(made).__name__.lower())
        if model and node.routes.home is None and model_agent_name(model) not in node.agents:
            await self.serve(model)
        await self._start(made, made.name, model)
        return made.name

    async def serve(self, model: str, settings: EngineSettings | None = None) -> str:
        """Start an engine in this process and serve it to the bus; returns its agent's name.

        Raises:
            ModelNotFound, ModelBroken, UnknownEngine: it cannot be started.
            NameTaken: the bus has an engine for that model.
        """
        from ..engine.registry import open_engine

        name = model_agent_name(model)
        engine = await open_engine(model, settings or EngineSettings())
        try:
            await self._start(ModelAgent(engine), name, "")
        except BaseException:
            with anyio.CancelScope(shield=True):
                await engine.aclose()
            raise
        return name

    async def _start(self, agent: Agent, name: str, model: str) -> None:
        node, tasks = self._open()
        mailbox = node.host(agent, name, model)
        try:
            await self._register(node, name)
            await tasks.start(self._live, agent, mailbox)
        except BaseException:
            del node.agents[name]
            mailbox.close()
            await self._briefly(lambda: self._unregister(node, name))
            raise

    async def _unregister(self, node: Node, name: str) -> None:
        """Let go of a name, if it is this process's; a bus that is ending has let go of all."""
        if node.routes.home_is_broker:
            with contextlib.suppress(AgentbusError):
                await self.request(BROKER, Unregister(name), returns=type(None))

    async def _register(self, node: Node, name: str) -> None:
        if not node.routes.home_is_broker:
            return
        await node.routes.listen_beside_home(self._connect, self._name)
        role = node.agents[name].role
        await self.request(BROKER, Register(name, node.routes.listens_at, role), returns=type(None))

    async def _live(self, agent: Agent, mailbox: Mailbox, *, task_status: TaskStatus[None]) -> None:
        """Run an agent's tasks until the bus closes."""
        await agent.started()
        try:
            async with anyio.create_task_group() as group:
                for _ in range(agent.concurrency):
                    group.start_soon(mailbox.run)
                task_status.started()
        finally:
            await self._briefly(lambda: self._stop(agent))

    async def _stop(self, agent: Agent) -> None:
        try:
            await agent.stopped()
        except Exception:
            logger.exception("agent %r failed to stop", agent.name)

    async def agents(self) -> tuple[Location, ...]:
        """Return the agents on the bus: the broker's list, or this process's own."""
        node, _ = self._entered()
        if node.routes.home_is_broker:
            listed = await self.request(BROKER, ListAgents(), returns=AgentList)
            return listed.agents
        path = node.routes.listens_at
        return tuple(
            Location(name, self._name, path, hosted.role) for name, hosted in node.agents.items()
        )

    async def home_lost(self) -> None:
        """Wait until the process that this bus joined goes away; for ever if it joined none."""
        await self._sender.routes.home_gone.wait()

    def on_peer_lost(self, action: Callable[[str], object]) -> None:
        """Have `action` called with the name of each process whose link ends."""
        self._entered()[0].peer_watchers.append(action)

    def subscribe(self, pattern: str, *, types: Sequence[type] = ()) -> Subscription:
        """Return the messages on topics that match: `*` stands for one token, `>` for the rest.

        `async with bus.subscribe("news.>") as messages: async for message in messages: …`
        `types` names payload types that other processes send and no agent here handles.

        Raises:
            InvalidName: the pattern is not well formed.
        """
        for kind in types:
            self._sender.types.declare(payload_type(kind))
        limit = self._settings.subscription
        return Subscription(check_pattern(pattern), limit, self._subscribed, self._unsubscribed)

    async def _subscribed(self, subscription: Subscription) -> None:
        node, _ = self._open()
        node.topics.add(subscription.pattern, subscription)
        node.subscriptions.add(subscription)
        try:
            await self._tell_home(f"+{subscription.pattern}")
        except BaseException:
            self._forget(node, subscription)
            raise

    async def _unsubscribed(self, subscription: Subscription) -> None:
        node = self._sender
        self._forget(node, subscription)
        if node.routes.home is not None and not node.closed:
            await self._briefly(lambda: self._tell_home(f"-{subscription.pattern}"))

    def _forget(self, node: Node, subscription: Subscription) -> None:
        node.topics.remove(subscription.pattern, subscription)
        node.subscriptions.discard(subscription)

    async def _tell_home(self, text: str) -> None:
        node = self._sender
        for home in node.routes.homes():
            pending = node.pending(BUS, None, type(None), stream=False)
            origin = self._origin(None)
            pending.deadline = node.timer.add(origin.deadline_at, pending.expire)
            node.peers.send(home, pending, text, origin)
            await pending.wait()

    @property
    def _sender(self) -> Node:
        return self._node or self._entered()[0]

    def _origin(self, deadline: float | None) -> Origin:
        return (self._node or self._entered()[0]).program_origin(deadline)

    def _entered(self) -> tuple[Node, TaskGroup]:
        if self._node is None or self._tasks is None:
            raise Closed("bus: enter it with 'async with Bus.open(…) as bus'")
        return self._node, self._tasks

    def _open(self) -> tuple[Node, TaskGroup]:
        node, tasks = self._entered()
        if node.closed:
            raise Closed("bus")
        return node, tasks
