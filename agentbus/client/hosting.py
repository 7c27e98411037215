"""The agents of one process, by name and by key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from ..config import BusSettings
from ..errors import NameTaken, NoResponder
from ..telemetry import AgentMetrics, AgentReport
from .agent import Agent, HandlerSpec, handlers_of, role_of
from .call import Call
from .instances import Instances, Living
from .mailbox import Delivery, Mailbox
from .pool import WorkerPool

__all__ = ["Hosted", "Hosts"]

MakeCall = Callable[[str, str, str, Delivery], Call]
"""Makes a handler's call from the agent's name, its model, its role, and the message."""


class Hosted:
    """An agent that lives in this process."""

    __slots__ = ("agent", "mailbox", "model", "role")

    def __init__(self, agent: Agent, mailbox: Mailbox, model: str, role: str) -> None:
        self.agent = agent
        self.mailbox = mailbox
        self.model = model
        self.role = role


class Hosts:
    """Gives agents their mailboxes, and finds them."""

    def __init__(self, make_call: MakeCall, pool: WorkerPool, settings: BusSettings) -> None:
        self._make_call = make_call
        self._pool = pool
        self._settings = settings
        self.agents: dict[str, Hosted] = {}
        self.instances: dict[str, Instances] = {}
        """Agents of which there is one for each key."""

    def mailbox(self, target: str) -> Mailbox | None:
        """Return the mailbox at an address of this process; None if there is none."""
        hosted = self.agents.get(target)
        return self.instance(target) if hosted is None else hosted.mailbox

    def reports(self) -> tuple[AgentReport, ...]:
        """Return what each agent has counted so far."""
        return (
            *(hosted.mailbox.report() for hosted in self.agents.values()),
            *(instances.report() for instances in self.instances.values()),
        )

    def host(self, agent: Agent, name: str, model: str) -> Mailbox:
        """Give an agent a mailbox under a name.

        Raises:
            NameTaken: this process has an agent of that name.
            ConfigError: the agent's handlers are not well formed.
        """
        self._check_free(name)
        role = role_of(type(agent))
        mailbox = self._make_mailbox(model, role, agent, AgentMetrics())
        self.agents[name] = Hosted(agent, mailbox, model, role)
        return mailbox

    def host_each(self, kind: type[Agent], name: str, model: str) -> None:
        """Have instances of `kind` answer at `name/key`. Raises as `host`."""
        self._check_free(name)
        handlers_of(kind)
        role = role_of(kind)
        make_mailbox = partial(self._make_mailbox, model, role)
        limit = self._settings.instances
        self.instances[name] = Instances(name, kind, role, make_mailbox, self._pool, limit)

    def release(self, name: str) -> None:
        """Let go of a name; who waits for an answer there gets `RequestCancelled`."""
        hosted = self.agents.pop(name, None)
        if hosted is not None:
            hosted.mailbox.close()
        self.instances.pop(name, None)

    def living(self) -> Iterator[Hosted | Living]:
        """Return all agents of this process, instances included."""
        yield from self.agents.values()
        for instances in self.instances.values():
            yield from instances

    def roles(self) -> dict[str, str]:
        """Return the names under which this process can be asked, each with its role."""
        roles = {name: hosted.role for name, hosted in self.agents.items()}
        return roles | {name: each.role for name, each in self.instances.items()}

    def handlers(self, name: str) -> tuple[HandlerSpec, ...]:
        """Return what an agent of this process handles.

        Raises:
            NoResponder: this process has no agent of that name.
        """
        if name in self.agents:
            return self.agents[name].mailbox.specs()
        if name in self.instances:
            return tuple(handlers_of(self.instances[name].kind).values())
        raise NoResponder(name)

    def _check_free(self, name: str) -> None:
        if name in self.agents or name in self.instances:
            raise NameTaken(name)

    def _make_mailbox(self, model: str, role: str, agent: Agent, metrics: AgentMetrics) -> Mailbox:
        make_call = partial(self._make_call, agent.name, model, role)
        limit = self._settings.mailbox
        return Mailbox(agent, agent.name, make_call, self._pool, limit, metrics)

    def instance(self, target: str) -> Mailbox | None:
        """Return the mailbox of the instance at `name/key` of this process; None if none can be."""
        instances = self.instances.get(target.partition("/")[0]) if "/" in target else None
        return None if instances is None else instances.mailbox(target)
