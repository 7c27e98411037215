"""The broker process: a bus that others join, with the directory of who is where."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable
from pathlib import Path

from .broker import Access, Directory
from .client import Agent, Bus, Call, Relay, Requester, handler
from .client.peer import Peer
from .client.remote import RemoteReplies
from .errors import ConfigError, InvalidName, NameTaken, NotAuthorised, PermissionDenied, TooLarge
from .guard import Guard
from .names import check_agent_name
from .routing import (
    ADMIN,
    BROKER,
    GRANT_SECONDS,
    LIST,
    MODEL,
    PRESENCE,
    PROCESS,
    REGISTER,
    AgentList,
    Join,
    Joined,
    ListAgents,
    ListProcesses,
    Locate,
    Location,
    Policy,
    Presence,
    Register,
    Route,
    Tokens,
    Unregister,
)
from .transport import remove_stale

__all__ = ["BrokerAgent", "start_broker"]


_MAX_ROLE = 64 * 1024
"""Characters of a role that the directory keeps."""
_RESERVED = "$"
"""What names begin with that are not for everybody's agents."""


class BrokerAgent(Agent):
    """Answers where agents are. Its rules are `broker.Directory`'s and `broker.Access`'s."""

    def __init__(
        self, home: str, directory: Directory, relay: Relay, access: Access, guard: Guard
    ) -> None:
        self._home = home
        """The broker's own process."""
        self._directory = directory
        self._relay = relay
        self._access = access
        self._guard = guard
        self._keys: dict[str, str] = {}
        """Public keys of processes that came over a Unix socket and accept links over tcp."""

    def left(self, process: str) -> None:
        """Forget a process that went away."""
        self._keys.pop(process, None)
        self._guard.left(process)

    @handler
    async def join(self, what: Join, call: Call) -> Joined:
        """Take a process in, and tell it what it needs to know of the policy."""
        return self._guard.join(self._asker(call), what.token)

    @handler
    async def register(self, what: Register, call: Call) -> None:
        """Take a name for an agent of the asking process."""
        if what.slots < 0:
            raise ConfigError("slots", f"must be 0 or more, not {what.slots}")
        asker = self._asker(call)
        self._check_registration(what, call)
        location = Location(what.name, call.peer, what.path, what.role)
        try:
            given = self._directory.register(location, what.slots)
        except NameTaken:
            # Its process may be dead: nothing else than a broken link tells, over tcp.
            if not await self._relay.unseat(self._directory.locate(what.name).peer):
                raise
            given = self._directory.register(location, what.slots)
        for request, process in given:
            self._relay.give(request, process)
        self._guard.registered(asker, what.name)
        if what.key:
            self._keys[call.peer] = what.key
        _tell(call, Presence(what.name, call.peer, present=True))

    def _asker(self, call: Call) -> Peer:
        """Return the link that a request came over.

        Raises:
            NotAuthorised: it came over none, or from one that says it is the broker.
        """
        replies = call.replies
        if not isinstance(replies, RemoteReplies) or call.peer == self._home:
            raise NotAuthorised(self._home, "it takes other processes alone")
        return replies.peer

    def _check_registration(self, what: Register, call: Call) -> None:
        name = check_agent_name(what.name)
        is_own = name == PROCESS + call.peer
        if name.startswith(_RESERVED) and not (is_own or name.startswith(MODEL)):
            raise InvalidName(name, "names that begin with '$' are the bus's own")
        if len(what.role) > _MAX_ROLE:
            raise TooLarge("the agent's role", len(what.role), _MAX_ROLE)
        if not is_own:
            self._access.check(call.peer, "", REGISTER, name)

    @handler
    async def unregister(self, what: Unregister, call: Call) -> None:
        """Let go of a name."""
        self._asker(call)
        if not self._directory.holds(what.name, call.peer):
            return
        for request in self._directory.unregister(what.name, call.peer):
            self._relay.refuse(request)
        _tell(call, Presence(what.name, call.peer, present=False))

    @handler
    async def locate(self, what: Locate, call: Call) -> Route:
        """Say where an agent is, with leave to ask it if there is a policy."""
        self._access.check_asking(call.peer, what.source, what.name)
        location = self._directory.locate(what.name)
        grant = self._access.grant(call.peer, what.source, location, self._guard.now())
        key = self._access.key_of(location.peer) or self._keys.get(location.peer, "")
        principal = self._access.principal_of(location.peer)
        return Route(location, key, grant, GRANT_SECONDS, principal)

    @handler
    async def list_agents(self, what: ListAgents, call: Call) -> AgentList:
        """Say who is on the bus, without the broker itself and what is there for tools."""
        found = [a for a in self._directory.agents() if a.name != BROKER]
        return self._seen(call, LIST, [a for a in found if not a.name.startswith(PROCESS)])

    @handler
    async def list_processes(self, what: ListProcesses, call: Call) -> AgentList:
        """Say which processes can be asked how they are."""
        found = [a for a in self._directory.agents() if a.name.startswith(PROCESS)]
        return self._seen(call, ADMIN, found)

    def _seen(self, call: Call, operation: str, found: Iterable[Location]) -> AgentList:
        """Return what the asking process may see."""
        seen = []
        for location in found:
            with contextlib.suppress(PermissionDenied):
                self._access.check(call.peer, call.source, operation, location.name)
                seen.append(location)
        return AgentList(tuple(seen))


async def start_broker(
    bus: Bus, *, policy: Policy | None = None, tokens: Tokens | None = None
) -> Guard:
    """Make a bus that listens the home of other processes, which find its agents so far, too.

    Without a policy, whoever can join may do all. Returns what takes another policy later on.
    """
    directory = Directory(Location(BROKER, bus.name, bus.listens_at, ""))
    access = Access(bus.name, policy, tokens or Tokens(), secrets.token_bytes)
    guard = Guard(bus.links(), access)
    relay = bus.relay(directory)
    for agent in bus.local_agents():
        directory.register(agent)
    own = Path(bus.listens_at)
    broker = BrokerAgent(bus.name, directory, relay, access, guard)

    def peer_lost(peer: str) -> None:
        broker.left(peer)
        lost, orphans = directory.peer_lost(peer)
        # A process that has no agents listens beside the broker, too, where it subscribed.
        _sweep(own, {own.parent / f"{peer}.sock", *(Path(location.path) for location in lost)})
        for location in lost:
            _tell(bus, Presence(location.name, location.peer, present=False))
        for request in orphans:
            relay.refuse(request)

    bus.on_peer_lost(peer_lost)
    await bus.spawn(broker, name=BROKER)
    return guard


def _tell(publisher: Requester, presence: Presence) -> None:
    """Publish that an agent has come or gone; what is there for tools alone, nobody waits for."""
    if not presence.name.startswith((BROKER, PROCESS)):
        publisher.publish_nowait(PRESENCE, presence)


def _sweep(own: Path, paths: set[Path]) -> None:
    """Remove the sockets that a killed process left beside the broker's own, and nothing else: one
    that lives may come back, and still be reached there."""
    for path in paths - {own}:
        with contextlib.suppress(OSError, ConfigError):
            if path.parent == own.parent:
                remove_stale(str(path))
