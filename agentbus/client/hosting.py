"""The agents of one process, by name and by key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from ..config import BusSettings
from ..errors import NameTaken, NoResponder
from ..telemetry import AgentMetrics, AgentReport, Observer, TimeLog
from .agent import Agent, HandlerSpec, handlers_of, role_of
from .blueprint import Blueprint
from .call import Call
from .instances import Instances
from .mailbox import Mailbox
from .pool import WorkerPool
from .reading import new_mailbox

if TYPE_CHECKING:
    from .node import Node

__all__ = ["Hosts"]


class Hosts:
    """Gives agents their mailboxes, and finds them."""

    def __init__(
        self, node: Node, pool: WorkerPool, settings: BusSettings, observer: Observer
    ) -> None:
        self._observer = observer
        self._node = node
        self._watchers: tuple[Callable[[Call, Any], object], ...] = ()
        self._pool = pool
        self._settings = settings
        self._log = TimeLog()
        self._blueprint = self._new_blueprints()
        """Returns what the agents of a class with a model share."""
        self.agents: dict[str, Mailbox] = {}
        """By the name of the agent."""
        self.instances: dict[str, Instances] = {}
        """Agents of which there is one for each key."""

    def watch(self, action: Callable[[Call, Any], object]) -> None:
        """Have `action` called with each message that agents hosted from here on begin to handle."""
        self._watchers += (action,)
        self._blueprint = self._new_blueprints()

    def _new_blueprints(self) -> Callable[[type[Agent], str], Blueprint]:
        return cast(
            Callable[[type[Agent], str], Blueprint],
            lru_cache(maxsize=1024)(self._make_blueprint),
        )

    def mailbox(self, target: str) -> Mailbox | None:
        """Return the mailbox at an address of this process; None if there is none."""
        return self.agents.get(target) or self.instance(target)

    def reports(self) -> tuple[AgentReport, ...]:
        """Return what each agent has counted so far."""
        return (
            *(mailbox.report() for mailbox in self.agents.values()),
            *(instances.report() for instances in self.instances.values()),
        )

    def host(self, agent: Agent, name: str, model: str) -> Mailbox:
        """Give an agent a mailbox under a name.

        Raises:
            NameTaken: this process has an agent of that name.
            ConfigError: the agent's handlers are not well formed.
        """
        self._check_free(name)
        blueprint = self._blueprint(type(agent), model)
        mailbox = self.agents[name] = new_mailbox(agent, blueprint, AgentMetrics())
        return mailbox

    def host_each(self, kind: type[Agent], name: str, model: str) -> None:
        """Have instances of `kind` answer at `name/key`. Raises as `host`."""
        self._check_free(name)
        blueprint, limit = self._blueprint(kind, model), self._settings.instances
        self.instances[name] = Instances(name, kind, blueprint, limit)

    def release(self, name: str) -> None:
        """Let go of a name; who waits for an answer there gets `RequestCancelled`."""
        mailbox = self.agents.pop(name, None)
        if mailbox is not None:
            mailbox.close()
        self.instances.pop(name, None)

    def living(self) -> Iterator[Mailbox]:
        """Return the mailboxes of all agents of this process, instances included."""
        yield from self.agents.values()
        for instances in self.instances.values():
            yield from instances

    def roles(self) -> dict[str, str]:
        """Return the names under which this process can be asked, each with its role."""
        roles = {name: mailbox.role for name, mailbox in self.agents.items()}
        return roles | {name: each.role for name, each in self.instances.items()}

    def handlers(self, name: str) -> tuple[HandlerSpec, ...]:
        """Return what an agent of this process handles.

        Raises:
            NoResponder: this process has no agent of that name.
        """
        if name in self.agents:
            return self.agents[name].specs()
        if name in self.instances:
            return tuple(handlers_of(self.instances[name].kind).values())
        raise NoResponder(name)

    def _check_free(self, name: str) -> None:
        if name in self.agents or name in self.instances:
            raise NameTaken(name)

    def _make_blueprint(self, kind: type[Agent], model: str) -> Blueprint:
        return Blueprint(
            handlers={spec.accepts.schema: spec for spec in handlers_of(kind).values()},
            model=model,
            role=role_of(kind),
            node=self._node,
            watchers=self._watchers,
            pool=self._pool,
            limit=self._settings.mailbox,
            log=self._log,
            clock=self._observer.clock,
            spans=self._observer.spans,
        )

    def instance(self, target: str) -> Mailbox | None:
        """Return the mailbox of the instance at `name/key` of this process; None if none can be."""
        instances = self.instances.get(target.partition("/")[0]) if "/" in target else None
        return None if instances is None else instances.mailbox(target)
