"""Finds the link to an agent: the home process knows who is where, links are made when needed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio

from .. import transport
from ..config import BusSettings, Keys
from ..errors import ConfigError, DeadlineExceeded, NoResponder, NotAuthorised, PeerLost
from ..routing import BROKER, Join, Joined, Listener, Locate, Location, Route, ShowGrant
from ..telemetry import NO_TRACE
from ..transport import TCP_SCHEME, Link, connect_unix, listen_unix
from ..wire import Hello
from .direct import DirectLinks
from .grants import Grants
from .origin import Origin
from .peer import Peer
from .peers import Peers
from .waiting import alone, wait_until

if TYPE_CHECKING:
    from .node import Node

__all__ = ["Routes"]


T = TypeVar("T")


class Routes:
    """Which link leads to which agent."""

    def __init__(
        self,
        peers: Peers,
        node: Node,
        direct: DirectLinks,
        name: str,
        settings: BusSettings,
        keys: Keys | None,
        grants: Grants,
        token: str,
    ) -> None:
        self._direct = direct
        self._carried: set[str] = set()
        """Agents that the home carries requests to, since there may be no more links."""
        self._movable: set[str] = set()
        """Those of them for which there may be room by now."""
        self._peers = peers
        self._node = node
        self._settings = settings
        self._keys = keys
        self._grants = grants
        self._token = token
        self._guarded = False
        """The bus has a policy: agents elsewhere are asked under grants."""
        self._hello = Hello(peer=name, resume_ms=int(settings.resume_timeout * 1000))
        self._by_agent: dict[str, Peer] = {}
        self._by_path: dict[str, Peer] = {}
        self._home: Peer | None = None
        self._home_is_far = False
        """The home was reached over tcp: paths that it knows may be another host's."""
        self._lost_home = ""
        self.home_gone = anyio.Event()
        """Set when the link to the home has ended for good."""
        self.home_closed = False
        """Whether it was closed in order."""
        self._home_is_broker = True
        self._connecting = anyio.Lock()
        self._listener: transport.Listener | None = None

    @property
    def home(self) -> Peer | None:
        """The process that this one was told to connect to."""
        return self._home

    @property
    def listens_at(self) -> str:
        """The socket or url where this process accepts links; empty if it does not."""
        return self._listener.path if self._listener is not None else ""

    def homes(self) -> list[Peer]:
        """Return the home as a list of one, or none.

        Raises:
            PeerLost: the home went away.
        """
        if self._lost_home:
            raise PeerLost(self._lost_home)
        return [] if self._home is None else [self._home]

    def known(self, name: str) -> Peer | None:
        """Return the peer that requests to `name`, or `name/key`, were sent to."""
        if "/" in name:
            name = name.partition("/")[0]
        return self._by_agent.get(name, None if self._home_is_broker else self._home)

    def ready(self, name: str, source: str) -> Peer | None:
        """Return the peer that a request of `source` to an agent can be sent to at once, if any."""
        # As `known` has it; for every request, a call less.
        agent = name.partition("/")[0] if "/" in name else name
        peer = self._by_agent.get(agent, None if self._home_is_broker else self._home)
        if peer is None or peer.link.paused:
            return None
        if peer.granted is not None and not self._grants.covers(peer, source, name):
            return None
        return peer

    @property
    def home_is_broker(self) -> bool:
        """Whether the home keeps a directory; if not, it is asked for every name itself."""
        connected = self._home is not None or self._lost_home != ""
        return connected and self._home_is_broker

    async def connect_home(self, path: str, origin: Origin) -> None:
        """Connect to the process that knows who is where, and join it if it does."""
        self._home_is_far = path.startswith(TCP_SCHEME)
        home = self._by_path.get(path) or await self._connect(path)
        self._home, self._lost_home = home, ""
        self._home_is_broker = True
        try:
            joined = await self._ask(Join(self._token), Joined, origin)
        except NoResponder:
            self._home_is_broker = False
        else:
            self._node.joined(home, joined)

    def guard(self, guarded: bool) -> None:
        """Take the broker's word whether there is a policy; ways that were found are asked anew."""
        self._guarded = guarded
        self._by_agent.clear()
        self._grants.forget_all()

    async def listen(self, path: str) -> None:
        """Accept links at `path`, or over tcp if it is a url."""
        peers, hello, limits = self._peers, self._hello, self._settings.limits
        if path.startswith(TCP_SCHEME):
            from ..transport.zmq_listen import listen_tcp

            self._listener = await listen_tcp(path, peers, hello, limits, keys=self._need_keys())
        else:
            self._listener = await listen_unix(path, peers, hello, limits)

    async def listen_beside_home(self, home_path: str, name: str) -> None:
        """Accept links beside the home's own socket, if it has one and this process does not."""
        if not self._home_is_far:
            path = str(Path(home_path).with_name(f"{name}.sock"))
            await alone(self._connecting, partial(self._listen_once, path))

    async def _listen_once(self, path: str) -> None:
        if self._listener is None:
            await self.listen(path)

    async def reach(self, name: str, origin: Origin) -> Peer:
        """Return the peer that has the agent `name`, or the instance `name/key`.

        Raises:
            NoResponder: nobody has it.
            PeerLost: the home, or the agent's process, went away.
        """
        name = name.partition("/")[0]
        peer = self._by_agent.get(name)
        if peer is not None and self._grants.covers(peer, origin.source, name):
            return peer
        if self._lost_home:
            raise PeerLost(self._lost_home)
        home = self._home
        if home is None:
            raise NoResponder(name)
        if name == BROKER or not self._home_is_broker:
            return home
        if name in self._movable and home.outgoing:
            return home  # something may be under way there, which nothing may overtake
        self._movable.discard(name)
        peer = self._by_agent[name] = await self._find(name, origin, home)
        return peer

    async def _find(self, name: str, origin: Origin, home: Peer) -> Peer:
        """Ask the home where an agent is, and get there."""
        route = await self._ask(Locate(name, origin.source), Route, origin)
        # One link serves both directions: each side then knows what the other holds.
        peer = self._present(route.location.peer, route.key)
        if self._guarded and not route.grant:
            return home
        if self._guarded and peer is not None and peer.principal != route.principal:
            peer = None  # it calls itself so, and nothing shows that it is
        if peer is None:
            peer = await self._reach_process(name, route.location, route.key, home)
        if self._guarded and peer is not home:
            await self._node.tell(peer, ShowGrant(route.grant), origin)
            edge = (peer, origin.source.partition("/")[0], name)
            renew = partial(self._renew, name, origin, peer)
            self._grants.shown(edge, route.seconds, renew)
        return peer

    @property
    def may_pass_by(self) -> bool:
        """Whether this process may publish past its home: a broker without a policy."""
        return self._home is not None and self._home_is_broker and not self._guarded

    async def reach_listener(self, listener: Listener) -> Peer | None:
        """Return the peer that listens to a topic, by a link of its own; None if there is none."""
        peer = self._present(listener.process, listener.key)
        if peer is not None:
            return None if peer is self._home else peer
        is_far = listener.path.startswith(TCP_SCHEME)
        if not listener.path or (is_far and self._keys is None):
            return None
        try:
            peer = await self._connect_directly(listener.path, listener.key)
        except (ConfigError, NotAuthorised, PeerLost):
            return None
        return peer if peer is not None and peer.name == listener.process else None

    def _present(self, process: str, key: str) -> Peer | None:
        """Return the peer that is a process, if there is a link to it and none calls itself so with
        another key."""
        peer = self._peers.named(process)
        return None if peer is not None and peer.link.key not in ("", key) else peer

    async def _renew(self, name: str, origin: Origin, peer: Peer) -> None:
        """Get and show another grant for an edge that is in use."""
        home = self._home
        if home is not None and self._by_agent.get(name) is peer:
            until = asyncio.get_running_loop().time() + self._settings.default_deadline
            self._by_agent[name] = await self._find(name, origin.until(until), home)

    async def _reach_process(self, name: str, location: Location, key: str, home: Peer) -> Peer:
        """Make a link to the process of an agent; the home carries on where none can be made."""
        is_far = location.path.startswith(TCP_SCHEME)
        if not location.path or (is_far and self._keys is None):
            return home
        try:
            peer = await self._connect_directly(location.path, key)
        except (ConfigError, NotAuthorised, PeerLost) as gone:
            if self._home_is_far or is_far:
                return home
            # The directory has not noticed yet that the agent's process is no more.
            raise PeerLost(location.peer) from gone
        if peer is None:
            self._carried.add(name)
            return home
        # If it is not that process, the path is another one's, on this host.
        return peer if peer.name == location.peer else home

    async def _ask(self, what: object, answer: type[T], origin: Origin) -> T:
        """Ask the home's broker something."""
        pending = self._node.pending(BROKER, None, answer, stream=False)
        try:
            # Without the asker's trace and budget: this is the bus's own affair.
            own = Origin(origin.source, origin.deadline_at, origin.hops_left, NO_TRACE)
            await wait_until(origin.deadline_at, self._node.send(pending, what, own))
            answered: T = await wait_until(origin.deadline_at, pending.wait())
        except TimeoutError:
            raise DeadlineExceeded(BROKER) from None
        return answered

    async def _connect_directly(self, path: str, key: str) -> Peer | None:
        """Return the peer at a path; None if there may be no more links to others than the home."""
        return await alone(self._connecting, partial(self._reach_path, path, key))

    async def _reach_path(self, path: str, key: str) -> Peer | None:
        if path in self._by_path:
            return self._by_path[path]
        if not await self._direct.make_room():
            return None
        peer = await self._connect(path, key)
        self._direct.opened(path, peer)
        return peer

    async def _connect(self, path: str, key: str = "") -> Peer:
        link = await self._make_link(path, key)
        peer = self._peers.of(link)
        if peer is None:
            raise PeerLost(path)
        self._by_path[path] = peer
        return peer

    async def _make_link(self, path: str, key: str) -> Link:
        peers, hello, limits = self._peers, self._hello, self._settings.limits
        timeout = self._settings.connect_timeout
        if path.startswith(TCP_SCHEME):
            from ..transport.zmq_connect import connect_tcp

            keys = self._need_keys()
            keys = replace(keys, server=key) if key else keys
            return await connect_tcp(path, peers, hello, limits, keys=keys, timeout=timeout)
        return await connect_unix(path, peers, hello, limits, timeout=timeout)

    def _need_keys(self) -> Keys:
        if self._keys is None:
            problem = f"{TCP_SCHEME} urls need keys (--keys, or keys=load_keys(…))"
            raise ConfigError("keys", f"{problem}; `agentbus keys new` makes them")
        return self._keys

    @property
    def shown_key(self) -> str:
        """The public key of who accepts links here over tcp; empty if nobody does."""
        far = self.listens_at.startswith(TCP_SCHEME)
        return self._keys.public if self._keys is not None and far else ""

    def forget_carried(self) -> None:
        """Look anew for a link to agents that had none of their own, when next they are asked."""
        for name in self._carried:
            self._by_agent.pop(name, None)
        self._movable |= self._carried
        self._carried.clear()

    def take_back(self, path: str, peer: Peer) -> None:
        """Use a link again that was forgotten."""
        self._by_path.setdefault(path, peer)

    def forget_agent(self, name: str) -> None:
        """Drop the route to an agent: the next request asks the home where it is."""
        self._by_agent.pop(name.partition("/")[0], None)

    def home_over(self, *, closed: bool) -> None:
        """Nobody waits for the home to come back; `closed` if it ended in order."""
        self.home_closed = closed
        self.home_gone.set()

    def forget(self, peer: Peer) -> None:
        """Drop all routes over a link that is gone."""
        if self._home is peer:
            self._home = None
            self._lost_home = peer.name
        self._by_agent = {name: p for name, p in self._by_agent.items() if p is not peer}
        self._by_path = {path: p for path, p in self._by_path.items() if p is not peer}

    async def aclose(self) -> None:
        """Accept no more links."""
        if self._listener is not None:
            await self._listener.aclose()
