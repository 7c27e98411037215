"""This process's part in a bus: its agents, its links, its topics, its deadlines.

`Bus` is the face that users see; here requests find their way to a mailbox or a link.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

from ..config import BusSettings
from ..context import Context, TenantKey
from ..errors import (
    AgentbusError,
    Closed,
    DeadlineExceeded,
    HopsExhausted,
    InvalidMessage,
    MalformedFrame,
    NameTaken,
    NoResponder,
    PeerLost,
)
from ..messages import Envelope, Kind
from ..names import check_pattern, check_topic
from ..routing import BUS, SubscriptionTable
from ..wire import Frames, copy_buffers
from .agent import Agent, role_of
from .call import Call, Generation
from .deadlines import DeadlineTimer
from .exchange import Pending
from .mailbox import Delivery, Mailbox
from .models import ModelClient
from .payload import payload_type
from .peers import Peer, Peers
from .requester import Origin, check_seconds
from .routes import Routes
from .subscription import Published, Subscription
from .types import TypeTable

__all__ = ["Hosted", "Node"]

logger = logging.getLogger("agentbus")


class Hosted:
    """An agent that lives in this process."""

    __slots__ = ("mailbox", "model", "role")

    def __init__(self, mailbox: Mailbox, model: str, role: str) -> None:
        self.mailbox = mailbox
        self.model = model
        self.role = role


class Node:
    """Sends, receives and delivers for one process."""

    def __init__(self, settings: BusSettings, tenant: TenantKey, name: str) -> None:
        self.settings = settings
        self.tenant = tenant
        self.name = name
        self.loop = asyncio.get_running_loop()
        self.timer = DeadlineTimer()
        self.types = TypeTable()
        self.agents: dict[str, Hosted] = {}
        self.topics: SubscriptionTable[Subscription | Peer] = SubscriptionTable()
        self.subscriptions: set[Subscription] = set()
        self.peers = Peers(self, settings, self.timer, self.types, tenant)
        self.routes = Routes(self.peers, self, name, settings)
        self.models = ModelClient(self)
        self.peer_watchers: list[Callable[[str], object]] = []
        self.dropped_publishes = 0
        self.closed = False
        self._random = random.Random()

    def now(self) -> float:
        """The loop's clock."""
        return self.loop.time()

    def empty_context(self) -> Context:
        """The context that nothing was said in."""
        return self.tenant.empty()

    def new_trace(self) -> bytes:
        """Return a new trace id with its first span id."""
        return self._random.getrandbits(192).to_bytes(24, "big")

    def program_origin(self, deadline: float | None) -> Origin:
        """Return the origin of requests that no handler makes."""
        seconds = self.settings.default_deadline if deadline is None else check_seconds(deadline)
        return Origin("", self.loop.time() + seconds, self.settings.max_hops, self.new_trace())

    def pending(
        self, target: str, context: Context | None, returns: Any, *, stream: bool
    ) -> Pending:
        """Make the caller's side of a request."""
        limit = self.settings.stream_parts if stream else 0
        wanted = None if returns is None else payload_type(returns)
        return Pending(self.loop, self.timer, target, context, wanted, limit)

    def send_nowait(self, pending: Pending, payload: Any, origin: Origin) -> bool:
        """Send a request to an agent here, or over a link that is known and not paused.

        Returns whether it was sent; if not, `send` takes it from there.

        Raises:
            AgentbusError: it could not be sent; `pending` has ended.
        """
        if self.closed:
            raise Closed("bus")
        target = pending.target
        if origin.hops_left < 0:
            raise HopsExhausted(target)
        if origin.deadline_at <= self.timer.time():
            raise DeadlineExceeded(target)
        pending.deadline = self.timer.add(origin.deadline_at, pending.expire)
        try:
            hosted = self.agents.get(target)
            if hosted is not None:
                schema = type(payload).__name__
                delivery = Delivery(payload, schema, origin, pending.context, pending)
                hosted.mailbox.put_nowait(delivery)
                pending.source = origin.source
                pending.callee = delivery
                return True
            peer = self.routes.known(target)
            if peer is None or peer.link.paused:
                return False
            self.peers.send(peer, pending, payload, origin)
        except BaseException:
            pending.drop()
            raise
        return True

    async def send(self, pending: Pending, payload: Any, origin: Origin) -> None:
        """Find the agent's link, wait until it takes more, and send.

        Raises:
            AgentbusError: it could not be sent; `pending` has ended.
        """
        try:
            async with asyncio.timeout_at(origin.deadline_at):
                peer = await self.routes.reach(pending.target, origin)
                if peer.link.paused:
                    await peer.link.drain()
            if not pending.ended:
                self.peers.send(peer, pending, payload, origin)
        except TimeoutError:
            pending.drop()
            pending.discard()
            raise DeadlineExceeded(pending.target) from None
        except BaseException:
            pending.drop()
            raise

    def generate(self, call: Call, request: Generation) -> AsyncGenerator[str, None]:
        """Run a model on a call's context."""
        return self.models.generate(call, request)

    def remember(self, peer: str, context: Context) -> None:
        """Note that a peer holds a context, as this process does."""
        self.peers.remember(self.peers.named(peer) if peer else None, context)

    def note_held(self, target: str, context: Context) -> None:
        """Note that the process of an agent holds a context, as this process does."""
        self.peers.remember(self.routes.known(target), context)

    def host(self, agent: Agent, name: str, model: str) -> Mailbox:
        """Give an agent a mailbox under a name.

        Raises:
            NameTaken: this process has an agent of that name.
            ConfigError: the agent's handlers are not well formed.
        """
        if name in self.agents:
            raise NameTaken(name)
        role = role_of(type(agent))
        make_call = partial(Call, self, name, model, role)
        mailbox = Mailbox(agent, name, make_call, self.settings.mailbox)
        self.agents[name] = Hosted(mailbox, model, role)
        return mailbox

    def deliver(self, target: str, delivery: Delivery) -> None:
        """Queue a request that a link brought."""
        if target == BUS:
            self._subscribe_peer(delivery)
            return
        hosted = self.agents.get(target)
        if hosted is None:
            raise NoResponder(target)
        hosted.mailbox.put_nowait(delivery)

    def _subscribe_peer(self, delivery: Delivery) -> None:
        """Handle what a peer says to `$bus`: `+pattern` subscribes it, `-pattern` unsubscribes."""
        text = payload_type(str).decode(delivery.payload)
        peer = self.peers.named(delivery.peer)
        if peer is None:
            return
        pattern = check_pattern(text[1:])
        if text.startswith("+"):
            self.topics.add(pattern, peer)
        elif text.startswith("-"):
            self.topics.remove(pattern, peer)
        else:
            raise InvalidMessage("str", "say +pattern or -pattern")
        delivery.acknowledge()

    def publish(self, topic: str, payload: Any, source: str) -> None:
        """Hand a payload to this process's subscribers and, by way of the home, to all others."""
        check_topic(topic)
        kind = payload_type(type(payload))
        envelope = None
        for subscriber in [*self.topics.match(topic), *self.routes.homes()]:
            if isinstance(subscriber, Subscription):
                subscriber.deliver(Published(topic, kind.receive(payload), source))
                continue
            if envelope is None:
                frames = kind.encode(payload)
                envelope = Envelope(
                    Kind.PUBLISH, source=source, target=topic, schema=kind.name, payloads=frames
                )
            self._forward(subscriber, envelope)

    def published(self, peer: Peer, envelope: Envelope) -> None:
        """Hand on a message that a link brought, to all but the link that brought it."""
        if not envelope.payloads:
            raise MalformedFrame("a published message has a payload")
        topic = check_topic(envelope.target)
        frames, is_taken = envelope.payloads, False
        for subscriber in self.topics.match(topic):
            if isinstance(subscriber, Subscription):
                # What one may write to, as to a tensor, no other views.
                own = copy_buffers(frames) if is_taken else frames
                self._publish_here(subscriber, envelope, own)
                is_taken = True
            elif subscriber is not peer:
                self._forward(subscriber, envelope)

    def _publish_here(self, subscriber: Subscription, envelope: Envelope, frames: Frames) -> None:
        try:
            value = self.types.find(envelope.schema).decode(frames)
        except InvalidMessage as error:
            self.dropped_publishes += 1
            logger.warning("a message on %s was dropped: %s", envelope.target, error)
            return
        subscriber.deliver(Published(envelope.target, value, envelope.source))

    def _forward(self, peer: Peer, envelope: Envelope) -> None:
        try:
            peer.link.send(envelope)
        except AgentbusError as error:
            self.dropped_publishes += 1
            logger.warning("a message on %s was dropped: %s", envelope.target, error)

    def peer_lost(self, peer: Peer) -> None:
        """Forget a process that went away."""
        self.topics.remove_all(peer)
        if peer is self.routes.home:
            self.end_subscriptions(PeerLost(peer.name))
        self.routes.forget(peer)
        if self.peers.named(peer.name) is None:
            for watcher in self.peer_watchers:
                watcher(peer.name)

    def end_subscriptions(self, error: AgentbusError | None) -> None:
        """End all subscriptions of this process, with `error` if there is one."""
        for subscription in self.subscriptions:
            subscription.close(error)
