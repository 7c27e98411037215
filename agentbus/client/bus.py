"""The bus as users see it: open it, spawn agents, ask them, publish and subscribe."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import anyio
from mypy_extensions import mypyc_attr

from ..config import BusSettings, EngineSettings, Keys
from ..context import Context, TenantKey
from ..errors import Closed, ConfigError
from ..filters import FilterRow
from ..names import check_agent_name, check_pattern
from ..routing import (
    BROKER,
    AgentList,
    ListAgents,
    Location,
)
from ..telemetry import Budget, BusReport, Ledger, Span, parse_traceparent
from ..transport import TCP_SCHEME
from .agent import Agent, HandlerSpec
from .bypass import Bypass
from .call import Call
from .lifetime import Lifetime
from .links import Links
from .models import filter_rows, model_agent_name
from .node import Node
from .origin import Origin
from .payload import payload_type
from .pool import WorkerPool
from .relay import Relay, Router
from .requester import Requester
from .scopes import Limited, Traced
from .subscription import Subscription

__all__ = ["Bus"]

logger = logging.getLogger("agentbus")

_SCHEME = "unix://"
_DRAIN_LOOK = 0.01
"""Seconds between two looks whether all requests have ended."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Bus(Requester):
    """This process's place on a bus. Make it with `Bus.open`, use it in `async with`."""

    __slots__ = (
        "_connect",
        "_keys",
        "_lifetime",
        "_listen",
        "_name",
        "_node",
        "_settings",
        "_tenant",
        "_token",
    )

    def __init__(
        self,
        connect: str,
        listen: str,
        name: str,
        settings: BusSettings,
        keys: Keys | None,
        token: str,
    ) -> None:
        self._connect = connect
        self._listen = listen
        self._name = f"{name or 'bus'}-{secrets.token_hex(4)}"
        self._settings = settings
        self._keys = keys
        self._token = token
        self._tenant = TenantKey()
        self._node: Node | None = None
        self._lifetime: Lifetime | None = None

    @staticmethod
    def open(
        url: str = "",
        *,
        listen: str = "",
        name: str = "",
        settings: BusSettings | None = None,
        keys: Keys | None = None,
        token: str = "",
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
            token: as whose holder to join a broker; see `agentbus keys token`.

        Raises:
            ConfigError: the url or path cannot be used, or lacks keys.
            InvalidName: the name is not well formed.
        """
        if name:
            check_agent_name(name)
        if url and (not url.startswith((_SCHEME, TCP_SCHEME)) or url == _SCHEME):
            problem = f"{url!r} is not of the form unix:///path/to.sock or ab://host:port"
            raise ConfigError("url", problem)
        if not isinstance(settings, BusSettings | None):
            raise ConfigError("settings", f"must be BusSettings(…), not {settings!r:.40}")
        return Bus(url.removeprefix(_SCHEME), listen, name, settings or BusSettings(), keys, token)

    async def __aenter__(self) -> Self:
        node = self._node = Node(
            self._settings, self._tenant, self._name, self._keys, WorkerPool(), self._token
        )
        self._lifetime = Lifetime(node)
        await self._lifetime.begin(self._connect, self._listen)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._living().end()

    @property
    def name(self) -> str:
        """This process's name on the bus."""
        return self._name

    @property
    def listens_at(self) -> str:
        """The socket or url at which other processes may join; empty if there is none."""
        return self._entered().routes.listens_at

    def context(self) -> Context:
        """Return an empty context. It is a value: appending gives a new one."""
        return self._tenant.empty()

    async def spawn(
        self,
        agent: Agent | type[Agent],
        *,
        name: str = "",
        model: str = "",
        per_key: bool = False,
        group: bool = False,
    ) -> str:
        """Start an agent in this process and return its name.

        Args:
            agent: an agent, or a class that can be made without arguments.
            name: its address on the bus; by default its class's name in lower case.
            model: the model behind `call.generate`. On a bus within this process its engine is
                started with the first agent that names it; on a daemon's bus a worker serves it.
            per_key: answer at `name/key`, by an instance of its own for each key, which is made
                with the first message for it. Messages for one key are handled in order.
            group: share the name with other processes' agents. The broker gives each request to one
                that has room for it, as its `concurrency` says, and keeps it until one has.

        Raises:
            NameTaken: an agent of that name is on the bus.
            ConfigError, InvalidName: handlers or name are not well formed.
            ModelNotFound, ModelBroken: the model cannot be served.
            Closed: the bus is closed.
        """
        node = self._open()
        kind = type(agent) if isinstance(agent, Agent) else agent
        if not (isinstance(kind, type) and issubclass(kind, Agent)):
            problem = f"must be an Agent or a subclass, not {agent!r:.80}"
            raise ConfigError("agent", f"{problem}; agent_of makes one of a function")
        name = check_agent_name(name or kind.__name__.lower())
        if per_key and group:
            problem = "choose one: group shares a name, per_key makes an instance for each key"
            raise ConfigError("agent", problem)
        if per_key and isinstance(agent, Agent):
            raise ConfigError("agent", "per_key makes the instances itself: give it the class")
        if model and node.routes.home is None and model_agent_name(model) not in node.hosts.agents:
            await self.serve(model)
        if per_key:
            await self._living().start_each(kind, name, model)
        else:
            made = agent if isinstance(agent, Agent) else _instance(agent)
            slots = made.concurrency if group else 0
            await self._living().start(made, name, model, slots)
        return name

    async def serve(self, model: str, settings: EngineSettings | None = None) -> str:
        """Start an engine in this process and serve it to the bus; returns its agent's name.

        Raises:
            ModelNotFound, ModelBroken, UnknownEngine: it cannot be started.
            NameTaken: the bus has an engine for that model.
            ConfigError: a setting cannot be used.
        """
        if not isinstance(settings, EngineSettings | None):
            raise ConfigError("settings", f"must be EngineSettings(…), not {settings!r:.40}")
        self._open()
        name = model_agent_name(model)
        await self._living().serve(model, name, settings or EngineSettings())
        return name

    async def agents(self) -> tuple[Location, ...]:
        """Return the agents on the bus: the broker's list, or this process's own."""
        node = self._entered()
        if node.routes.home_is_broker:
            listed = await self.request(BROKER, ListAgents(), returns=AgentList)
            return listed.agents
        return self.local_agents()

    def local_agents(self) -> tuple[Location, ...]:
        """Return the agents of this process."""
        node = self._entered()
        path = node.routes.listens_at
        return tuple(
            Location(name, self._name, path, role) for name, role in node.hosts.roles().items()
        )

    def handlers(self, name: str) -> tuple[HandlerSpec, ...]:
        """Return what an agent of this process handles.

        Raises:
            NoResponder: this process has no agent of that name.
        """
        return self._entered().hosts.handlers(name)

    async def home_lost(self) -> bool:
        """Wait until the process that this bus joined goes away; for ever if it joined none.

        If it goes away without a word, this process first tries to come back, for
        `BusSettings.rejoin_timeout`. Returns whether the home closed the link in order.
        """
        routes = self._sender.routes
        await routes.home_gone.wait()
        return routes.home_closed

    @property
    def draining(self) -> bool:
        """Whether `drain` was called."""
        return self._entered().draining

    async def drain(self, seconds: float) -> None:
        """Take no new requests from other processes, and wait for those under way to end.

        The names of this process's agents are free first, so that others find no agent, or another
        of that name; who had found one before gets `Draining`. Returns when all requests have
        ended, or after `seconds`.
        """
        node = self._open()
        with anyio.move_on_after(seconds):
            for name in node.hosts.roles():
                await node.membership.unregister(name)
        node.draining = True
        with anyio.move_on_after(seconds):
            # An event would cost each request that ends a look at it.
            while any(peer.incoming for peer in node.peers):  # noqa: ASYNC110
                await anyio.sleep(_DRAIN_LOOK)

    def report(self) -> BusReport:
        """Return what this process has counted since the bus was opened."""
        return self._entered().report()

    def relay(self, router: Router) -> Relay:
        """Have this process carry on what other processes ask of agents that it does not host."""
        node = self._sender
        node.relay = Relay(node.peers, router)
        node.topics.bypass = Bypass(node)
        return node.relay

    def links(self) -> Links:
        """Return this process's links, for who decides what is taken over them."""
        return Links(self._sender)

    def on_peer_lost(self, action: Callable[[str], object]) -> None:
        """Have `action` called with the name of each process whose link ends."""
        self._entered().peer_watchers.append(action)

    def on_handled(self, action: Callable[[Call, Any], object]) -> None:
        """Have `action` called with each message that agents of this process begin to handle.

        It gets the handler's call and the payload, and must not raise. It holds for agents that are
        spawned from here on; without it nothing is called, and a message costs nothing.
        """
        self._entered().hosts.watch(action)

    def subscribe(self, pattern: str, *, types: Sequence[type] = ()) -> Subscription:
        """Return the messages on topics that match: `*` stands for one token, `>` for the rest.

        `async with bus.subscribe("news.>") as messages: async for message in messages: …`
        `types` names payload types that other processes send and no agent here handles.

        Raises:
            InvalidName: the pattern is not well formed.
        """
        for kind in types:
            self._sender.types.declare(payload_type(kind))
        limit, pattern = self._settings.subscription, check_pattern(pattern)
        living = self._living()
        return Subscription(pattern, limit, living.subscribe, living.unsubscribe)

    def read_plain(self) -> None:
        """Read what comes from other processes as plain values, whatever its type.

        For tools, which have nobody's types. Where a call names the type with `returns`, that holds.
        """
        self._sender.types.read_plain()

    @property
    def _sender(self) -> Node:
        return self._node or self._entered()

    @property
    def _name_as_source(self) -> str:
        return ""

    @property
    def budget(self) -> Budget | None:
        """None: a program's requests have the budgets that they are given."""
        return None

    def within(self, budget: Budget) -> Requester:
        """Return an asker whose requests together stay within a budget."""
        return Limited(self, Ledger.of(budget))

    def traced(self, traceparent: str) -> Requester:
        """Return an asker whose requests belong to a trace that began elsewhere.

        `traceparent` is W3C's header; `Call.traceparent` writes one. Raises `ConfigError` if it is
        not well formed.
        """
        return Traced(self, self._sender.traces, parse_traceparent(traceparent))

    def spans(self, trace: str = "") -> list[Span]:
        """Return the latest spans of this process, those of a trace if its id begins so."""
        log = self._sender.observer.spans
        return [] if log is None else log.of(trace)

    def filter_rows(self) -> tuple[FilterRow, ...]:
        """Return what filters did to what this process's models read, by edge and filter."""
        return filter_rows(mailbox.agent for mailbox in self._sender.hosts.living())

    def _origin(self, deadline: float | None) -> Origin:
        return (self._node or self._entered()).program_origin(deadline)

    def _lending(self, deadline: float | None, budget: Budget | None) -> Origin:
        origin = (self._node or self._entered()).program_origin(deadline)
        return origin if budget is None else origin.lent(Ledger.of(budget).lend())

    def _entered(self) -> Node:
        if self._node is None:
            raise _not_entered()
        return self._node

    def _living(self) -> Lifetime:
        """Return what begins and ends here; as `_entered`, once the bus was closed too."""
        if self._lifetime is None:
            raise _not_entered()
        return self._lifetime

    def _open(self) -> Node:
        node = self._entered()
        if node.closed:
            raise Closed("bus")
        return node


def _not_entered() -> Closed:
    return Closed("bus (enter it with 'async with Bus.open(…) as bus')")


def _instance(kind: type[Agent]) -> Agent:
    try:
        return kind()
    except TypeError as error:
        problem = f"{kind.__name__} cannot be made without arguments: spawn an instance ({error})"
        raise ConfigError("agent", problem) from error
