"""This process's part in a bus: its agents, its links, its topics, its deadlines.

`Bus` is the face that users see; here requests find their way to a mailbox or a link.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from typing import Any

from ..config import BusSettings, Keys
from ..context import Context, TenantKey
from ..errors import (
    AgentbusError,
    Closed,
    ConfigError,
    DeadlineExceeded,
    Draining,
    HopsExhausted,
    InvalidMessage,
    MailboxFull,
    MalformedFrame,
    NameTaken,
    NoResponder,
    PeerLost,
)
from ..messages import Envelope, Kind
from ..names import check_pattern, check_topic
from ..routing import BUS, SubscriptionTable
from ..telemetry import AgentMetrics, BusReport, LinkReport, Metrics
from ..wire import Frames, copy_buffers
from .agent import Agent, HandlerSpec, handlers_of, role_of
from .call import Call, Generation
from .deadlines import DeadlineTimer
from .delayed import Delayed
from .exchange import Pending
from .feed import FeedReader
from .flow import Inflow
from .handoff import Handoff, Released
from .instances import Instances, Living
from .mailbox import Delivery, Mailbox
from .models import ModelClient
from .offer import Offer, refusal
from .origin import Origin
from .payload import PayloadType, payload_type
from .peers import Peer, Peers
from .pool import WorkerPool
from .relay import Relay
from .remote import RemoteReplies
from .requester import check_seconds
from .routes import Routes
from .subscription import Published, Subscription
from .types import TypeTable

__all__ = ["Hosted", "Node"]

logger = logging.getLogger("agentbus")


class Hosted:
    """An agent that lives in this process."""

    __slots__ = ("agent", "mailbox", "model", "role")

    def __init__(self, agent: Agent, mailbox: Mailbox, model: str, role: str) -> None:
        self.agent = agent
        self.mailbox = mailbox
        self.model = model
        self.role = role


class Node:
    """Sends, receives and delivers for one process."""

    def __init__(
        self,
        settings: BusSettings,
        tenant: TenantKey,
        name: str,
        keys: Keys | None,
        pool: WorkerPool,
    ) -> None:
        self.pool = pool
        self.settings = settings
        self.tenant = tenant
        self.name = name
        self.loop = asyncio.get_running_loop()
        self.timer = DeadlineTimer()
        self.types = TypeTable()
        self.agents: dict[str, Hosted] = {}
        self.instances: dict[str, Instances] = {}
        """Agents of which there is one for each key."""
        self.topics: SubscriptionTable[Subscription | Peer] = SubscriptionTable()
        self.subscriptions: set[Subscription] = set()
        self.peers = Peers(self, settings, self.timer, self.types, tenant)
        self.routes = Routes(self.peers, self, name, settings, keys)
        self.models = ModelClient(self)
        self.peer_watchers: list[Callable[[str], object]] = []
        self.metrics = Metrics()
        self.relay: Relay | None = None
        """In a broker: carries on what is not for an agent here."""
        self.delayed = Delayed(self.loop, settings.delayed)
        self.closed = False
        self.draining = False
        """Requests from other processes are refused."""
        # A trace is told apart by where it began and its number there, and one number serves as
        # its first span's too: drawing 24 random bytes for each would cost three times as much.
        self._trace_prefix = secrets.token_bytes(8)
        self._traces = 0

    def now(self) -> float:
        """The loop's clock."""
        return self.loop.time()

    def empty_context(self) -> Context:
        """The context that nothing was said in."""
        return self.tenant.empty()

    def new_trace(self) -> bytes:
        """Return a new trace id with its first span id."""
        self._traces += 1
        number = self._traces.to_bytes(8, "big")
        return self._trace_prefix + number + number

    def program_origin(self, deadline: float | None) -> Origin:
        """Return the origin of requests that no handler makes."""
        seconds = self.settings.default_deadline if deadline is None else check_seconds(deadline)
        return Origin("", self.loop.time() + seconds, self.settings.max_hops, self.new_trace())

    def pending(
        self, target: str, context: Context | None, returns: Any, *, stream: bool
    ) -> Pending:
        """Make the caller's side of a request."""
        window = self.settings.stream_parts if stream else 0
        wanted = None if returns is None else payload_type(returns)
        self.metrics.sent += 1
        return Pending(self.timer, self.metrics, target, context, wanted, window)

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
            mailbox = self._instance(target) if hosted is None else hosted.mailbox
            if mailbox is not None:
                schema = payload_type(type(payload)).schema
                delivery = Delivery(payload, schema, origin, pending.context, pending)
                if pending.window:
                    delivery.feed = FeedReader()
                mailbox.put_nowait(delivery)
                pending.source = origin.source
                pending.sent_to(delivery)
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

    async def hand_over(
        self, delivery: Delivery, target: str, payload: Any, origin: Origin
    ) -> None:
        """Have another agent answer what a handler was asked. Raises as `Call.handoff`."""
        schema = payload_type(type(payload)).schema
        offer = Offer(target, payload, schema, delivery.context, origin)
        if origin.hops_left < 0:
            raise HopsExhausted(target)
        replies = delivery.replies
        if isinstance(replies, RemoteReplies):
            await replies.hand_over(offer)
        elif isinstance(replies, Pending):
            outcome: list[AgentbusError | None] = []
            await Handoff(self, replies, offer, outcome.append).run()
            if outcome and outcome[0] is not None:
                raise outcome[0]
        else:
            raise Closed("request: it was handed over")
        delivery.replies = Released()

    def handed_over(self, peer: Peer, pending: Pending, offer: Offer) -> None:
        """Ask another agent, as the one that this process had asked wants it.

        Raises:
            Closed: that is under way already.
        """
        if pending.is_moving:
            raise Closed("request: it is being handed over")
        number, pending.is_moving = pending.id, True

        def settled(error: AgentbusError | None) -> None:
            pending.is_moving = False
            if error is not None:
                peer.tell(refusal(number, error))

        self.pool.run(Handoff(self, pending, offer, settled))

    def mailbox(self, target: str) -> Mailbox | None:
        """Return the mailbox at an address of this process; None if there is none."""
        hosted = self.agents.get(target)
        return self._instance(target) if hosted is None else hosted.mailbox

    def feed(self, delivery: Delivery, kind: PayloadType) -> Inflow:
        """Begin to read what the caller of a delivery feeds."""
        if delivery.feed is None:
            delivery.feed = FeedReader()
            delivery.feed.end()
        window = self.settings.stream_parts
        return delivery.feed.open(self.loop, kind, window, delivery.replies.grant_feed)

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
        limit = self.settings.instances
        self.instances[name] = Instances(name, kind, role, make_mailbox, self.pool, limit)

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
        make_call = partial(Call, self, agent.name, model, role)
        limit = self.settings.mailbox
        return Mailbox(agent, agent.name, make_call, self.pool, limit, metrics)

    def _instance(self, target: str) -> Mailbox | None:
        """Return the mailbox of the instance at `name/key` of this process; None if none can be."""
        instances = self.instances.get(target.partition("/")[0]) if "/" in target else None
        return None if instances is None else instances.mailbox(target)

    def deliver(self, target: str, delivery: Delivery) -> None:
        """Queue a request that a link brought."""
        if target == BUS:
            self._subscribe_peer(delivery)
            return
        if self.draining:
            raise Draining(target)
        mailbox = self.mailbox(target)
        if mailbox is not None:
            mailbox.put_nowait(delivery)
        elif self.relay is not None:
            self.relay.take(target, delivery)
        else:
            raise NoResponder(target)

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
        self.metrics.published += 1
        envelope = None
        for subscriber in [*self.topics.match(topic), *self.routes.homes()]:
            if isinstance(subscriber, Subscription):
                subscriber.deliver(Published(topic, kind.receive(payload), source))
                continue
            if envelope is None:
                frames = kind.encode(payload)
                envelope = Envelope(
                    Kind.PUBLISH, source=source, target=topic, schema=kind.schema, payloads=frames
                )
            self._forward(subscriber, envelope)

    def publish_later(self, topic: str, payload: Any, source: str, delay: float) -> None:
        """As `publish`, after `delay` seconds.

        Raises:
            ConfigError: the delay is negative, or no finite number.
            MailboxFull: `BusSettings.delayed` messages wait already.
            InvalidName, InvalidMessage: see `publish`.
        """
        check_topic(topic)
        kind = payload_type(type(payload))
        payload = kind.receive(payload)  # as it is now, whatever the publisher does with it
        if check_seconds(delay) < 0:
            raise ConfigError("delay", f"must not be negative, not {delay}")

        def due() -> None:
            try:
                self.publish(topic, payload, source)
            except AgentbusError as error:
                self.metrics.dropped += 1
                logger.warning("a delayed message on %s was dropped: %s", topic, error)

        if not self.delayed.after(delay, due):
            raise MailboxFull(topic, self.settings.delayed)

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
            self.metrics.dropped += 1
            logger.warning("a message on %s was dropped: %s", envelope.target, error)
            return
        subscriber.deliver(Published(envelope.target, value, envelope.source))

    def _forward(self, peer: Peer, envelope: Envelope) -> None:
        try:
            peer.link.send(envelope)
        except AgentbusError as error:
            self.metrics.dropped += 1
            logger.warning("a message on %s was dropped: %s", envelope.target, error)

    def report(self) -> BusReport:
        """Return what this process has counted so far."""
        metrics = self.metrics
        links = [peer.link for peer in self.peers]
        return BusReport(
            agents=(
                *(hosted.mailbox.report() for hosted in self.agents.values()),
                *(instances.report() for instances in self.instances.values()),
            ),
            links=tuple(
                LinkReport(link.peer.peer, link.bytes_sent, link.bytes_received) for link in links
            ),
            sent=metrics.sent,
            failures=dict(metrics.failures),
            published=metrics.published,
            dropped=metrics.dropped + sum(s.dropped for s in self.subscriptions),
            missed_deadlines=self.timer.missed,
        )

    def forget_subscription(self, subscription: Subscription) -> None:
        """Deliver nothing more to a subscriber; what it was too slow for stays counted."""
        self.topics.remove(subscription.pattern, subscription)
        if subscription in self.subscriptions:
            self.subscriptions.remove(subscription)
            self.metrics.dropped += subscription.dropped

    def draining_elsewhere(self, name: str) -> None:
        """Look for an agent anew, since the process that had it is ending."""
        self.routes.forget_agent(name)

    def peer_lost(self, peer: Peer, error: AgentbusError | None) -> None:
        """Forget a process that went away."""
        self.topics.remove_all(peer)
        if peer is self.routes.home:
            self.end_subscriptions(PeerLost(peer.name))
        self.routes.forget(peer, closed=error is None)
        if self.peers.named(peer.name) is None:
            for watcher in self.peer_watchers:
                watcher(peer.name)

    def end_subscriptions(self, error: AgentbusError | None) -> None:
        """End all subscriptions of this process, with `error` if there is one."""
        for subscription in self.subscriptions:
            subscription.close(error)
