"""This process's part in a bus: its agents, its links, its topics, its deadlines.

`Bus` is the face that users see; here requests find their way to a mailbox or a link.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, Callable
from time import perf_counter
from typing import Any

from ..config import BusSettings, Keys, TelemetrySettings
from ..context import Context, TenantKey
from ..errors import (
    AgentbusError,
    Closed,
    ConfigError,
    DeadlineExceeded,
    Draining,
    HopsExhausted,
    InvalidName,
    NoResponder,
)
from ..messages import Envelope
from ..routing import BUS, Joined
from ..telemetry import BLIND, BusReport, LinkReport, Metrics, Observer, SpanLog, TraceIds
from ..transport import Link
from .call import Call
from .deadlines import DeadlineTimer
from .delivery import Delivery
from .direct import DirectLinks
from .direct_topics import DirectTopics
from .exchange import Pending
from .feed import FeedReader
from .flow import Inflow
from .gate import Gate
from .generation import Answer, Generation
from .grants import GrantGate, Grants
from .handoff import Handoff, Released
from .hosting import Hosts
from .link_control import LinkControl
from .membership import Membership
from .models import ModelClient, engine_reports
from .offer import Offer, refusal
from .origin import Origin
from .payload import PayloadType, payload_type
from .peer import Peer
from .peers import Peers
from .pool import WorkerPool
from .prefetch import Prefetcher
from .relay import Relay
from .remote import RemoteReplies
from .requester import check_seconds
from .routes import Routes
from .topics import Topics
from .types import TypeTable
from .waiting import wait_until

__all__ = ["Node"]

logger = logging.getLogger("agentbus")


class Node:
    """Sends, receives and delivers for one process."""

    def __init__(
        self,
        settings: BusSettings,
        tenant: TenantKey,
        name: str,
        keys: Keys | None,
        pool: WorkerPool,
        token: str = "",
    ) -> None:
        self.pool = pool
        self.settings = settings
        self.tenant = tenant
        self.name = name
        self.loop = asyncio.get_running_loop()
        # For every request: an attribute of one of these is found without a look-up by name.
        self._time = self.loop.time
        self._default_deadline = settings.default_deadline
        self._max_hops = settings.max_hops
        self._stream_parts = settings.stream_parts
        self.timer = DeadlineTimer()
        self.types = TypeTable()
        self.observer = _observer(name, settings.telemetry)
        self.metrics = Metrics(self.observer)
        self.hosts = Hosts(self, pool, settings, self.observer)
        self._agents = self.hosts.agents  # looked up for every request
        self.peers = Peers(self, settings, self.timer, self.types, tenant)
        self.grants = Grants(self.loop, pool)
        self.direct = DirectLinks(self)
        self.routes = Routes(
            self.peers, self, self.direct, name, settings, keys, self.grants, token
        )
        self.membership = Membership(self)
        self.models = ModelClient(self)
        self.prefetcher = Prefetcher(self)
        self.peer_watchers: list[Callable[[str], object]] = []
        self.topics = Topics(self.routes, self.types, self.metrics, self.loop, settings)
        self.direct_topics = DirectTopics(self)
        self.gate: Gate | None = None
        self._control = LinkControl(self)
        self.relay: Relay | None = None
        """In a broker: carries on what is not for an agent here."""
        self.closed = False
        self.draining = False
        """Requests from other processes are refused."""
        self.traces = TraceIds(secrets.token_bytes(24))

    def now(self) -> float:
        """The loop's clock."""
        return self.loop.time()

    def empty_context(self) -> Context:
        """The context that nothing was said in."""
        return self.tenant.empty()

    def samples(self, trace: bytes) -> bool:
        """Say whether the spans of a trace are kept."""
        log = self.observer.spans
        return log is not None and log.keeps(trace)

    def program_origin(self, deadline: float | None) -> Origin:
        """Return the origin of a request that no handler makes."""
        seconds = self._default_deadline if deadline is None else check_seconds(deadline)
        return Origin("", self._time() + seconds, self._max_hops, self.traces.new())

    def pending(
        self, target: str, context: Context | None, returns: Any, *, stream: bool
    ) -> Pending:
        """Make the caller's side of a request.

        Raises:
            ConfigError: what is to go along is no context.
        """
        if context is not None and not isinstance(context, Context):
            raise ConfigError("context", f"must be a Context, not {context!r:.40}")
        window = self._stream_parts if stream else 0
        wanted = None if returns is None else payload_type(returns)
        self.metrics.sent += 1
        return Pending(self.timer, self.metrics, target, context, wanted, window)

    def send_nowait(self, pending: Pending, payload: Any, origin: Origin) -> bool:
        """Send a request to an agent here, or over a link that is known and not paused.

        Returns whether it was sent; if not, `send` takes it from there.

        Raises:
            AgentbusError: it could not be sent; `pending` has ended.
        """
        target = pending.target
        pending.origin, pending.loan = origin, origin.loan
        try:
            if self.closed or origin.hops_left < 0 or origin.deadline_at <= self._time():
                raise self._unsendable(target, origin)
            mailbox = self._agents.get(target) or self.hosts.instance(target)
            if mailbox is not None:
                schema = payload_type(type(payload)).schema
                delivery = Delivery(payload, schema, origin, pending.context, pending)
                delivery.feed = FeedReader() if pending.window else None
                delivery.arrived = pending.started
                pending.sent_to(delivery)
                mailbox.put_now(delivery)
                if not pending.ended:
                    pending.deadline = self.timer.add(origin.deadline_at, pending.expire)
                return True
            pending.deadline = self.timer.add(origin.deadline_at, pending.expire)
            peer = self.routes.ready(target, origin.source)
            if peer is None:
                return False
            self.peers.send(peer, pending, payload, origin)
        except BaseException as error:
            pending.refuse(error)
            raise
        return True

    def _unsendable(self, target: str, origin: Origin) -> AgentbusError:
        if self.closed:
            return Closed("bus")
        return HopsExhausted(target) if origin.hops_left < 0 else DeadlineExceeded(target)

    async def send(self, pending: Pending, payload: Any, origin: Origin) -> None:
        """Find the agent's link, wait until it takes more, and send.

        Raises:
            AgentbusError: it could not be sent; `pending` has ended.
        """
        try:
            peer = await wait_until(origin.deadline_at, self._ready(pending.target, origin))
            if not pending.ended:
                self.peers.send(peer, pending, payload, origin)
        except TimeoutError:
            late = DeadlineExceeded(pending.target)
            pending.refuse(late)
            raise late from None
        except BaseException as error:
            pending.refuse(error)
            raise

    async def _ready(self, target: str, origin: Origin) -> Peer:
        """Return the peer that has an agent once its link takes more; see `Routes.reach`."""
        while True:
            peer = await self.routes.reach(target, origin)
            if not peer.link.paused:
                return peer
            # Lost meanwhile, or let go of to be closed: nothing was sent, so look again.
            with contextlib.suppress(Closed):
                await peer.link.drain()

    def generate(
        self, call: Call, delivery: Delivery, request: Generation
    ) -> AsyncGenerator[str | Answer, None]:
        """Run a model on a call's context."""
        self.prefetcher.reading(call.agent, delivery, request.salt)
        return self.models.generate(call, delivery.origin, request)

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
            if replies.is_moving:
                raise Closed("request (it is being handed over)")
            outcome: list[AgentbusError | None] = []
            replies.is_moving = True
            try:
                await Handoff(self, replies, offer, outcome.append).run()
            finally:
                replies.settle_move()
            if outcome and outcome[0] is not None:
                raise outcome[0]
        else:
            raise Closed("request: it was handed over")
        delivery.let_go(Released())

    def handed_over(self, peer: Peer, pending: Pending, offer: Offer) -> None:
        """Ask another agent, as the one that this process had asked wants it.

        Raises:
            Closed: that is under way already.
            InvalidName: it would be in the name of another agent than the one that was asked.
        """
        if self.closed:
            raise Closed("bus")
        source = offer.origin.source
        # This process sends it, and may have agents of its own that may do more.
        if source.partition("/")[0] != pending.target.partition("/")[0]:
            raise InvalidName(source, f"{pending.target} hands requests over in its own name")
        if pending.is_moving:
            raise Closed("request (it is being handed over)")
        number, pending.is_moving = pending.id, True

        def settled(error: AgentbusError | None) -> None:
            pending.settle_move()
            if error is not None:
                peer.tell(refusal(number, error))

        self.pool.run(Handoff(self, pending, offer, settled))

    def feed(self, delivery: Delivery, kind: PayloadType) -> Inflow:
        """Begin to read what the caller of a delivery feeds."""
        feed = delivery.feed
        if feed is None:
            feed = delivery.open_feed()
            feed.end()
        window = self.settings.stream_parts
        return feed.open(self.loop, kind, window, delivery.replies.grant_feed)

    def remember(self, peer: str, context: Context) -> None:
        """Note that a peer holds a context, as this process does."""
        self.peers.remember(self.peers.named(peer) if peer else None, context)

    def note_held(self, target: str, context: Context) -> None:
        """Note that the process of an agent holds a context, as this process does."""
        self.peers.remember(self.routes.known(target), context)

    def deliver(self, target: str, delivery: Delivery) -> None:
        """Queue a request that a link brought."""
        if target == BUS:
            self._control.take(delivery)
            return
        if self.closed:
            raise NoResponder(target)
        if self.draining:
            raise Draining(target)
        mailbox = self.hosts.mailbox(target)
        if mailbox is not None:
            mailbox.put_added(delivery)
        elif self.relay is not None:
            self.relay.take(target, delivery)
        else:
            raise NoResponder(target)

    def begin(self) -> None:
        """Begin to handle what was delivered."""
        self.pool.begin()

    def publish(self, topic: str, payload: Any, source: str) -> None:
        """Send a payload to whoever subscribed."""
        self.topics.publish(topic, payload, source)

    def publish_later(self, topic: str, payload: Any, source: str, delay: float) -> None:
        """Send a payload to whoever has subscribed in `delay` seconds."""
        self.topics.publish_later(topic, payload, source, delay)

    def published(self, peer: Peer, envelope: Envelope) -> None:
        """Hand on a message that a link brought."""
        self.topics.published(peer, envelope)

    async def tell_home(self, text: str) -> None:
        """Tell the process that this one joined what it is to send here; see `Topics.change`."""
        for home in self.routes.homes():
            await self.tell(home, text, self.program_origin(None))

    async def tell(
        self, peer: Peer, said: object, origin: Origin, returns: type | None = None
    ) -> Any:
        """Say something to a peer's process itself, and return its answer, if it is to give one."""
        return await self.say(peer, said, origin, returns).wait()

    def say(self, peer: Peer, said: object, origin: Origin, returns: type | None = None) -> Pending:
        """Say something to a peer's process itself, behind all that was sent there before.

        Raises:
            AgentbusError: it cannot be sent.
        """
        pending = self.pending(BUS, None, returns or type(None), stream=False)
        pending.deadline = self.timer.add(origin.deadline_at, pending.expire)
        try:
            self.peers.send(peer, pending, said, origin)
        except BaseException:
            pending.drop()
            raise
        return pending

    def guard(self, gate: Gate | None) -> None:
        """Have a gate decide which messages of peers are taken; None takes all."""
        self.gate = self.topics.gate = gate
        self.peers.intake.guard(gate)
        for peer in self.peers:
            peer.allowed.clear()

    def joined(self, home: Peer, joined: Joined) -> None:
        """Take the rules of the broker that this process joined, also when they change."""
        self.guard(GrantGate(home, joined, self.timer) if joined.guarded else None)
        self.topics.allow_all()
        if joined.guarded:
            self.direct_topics.end()
        self.routes.guard(joined.guarded)

    def let_go(self, peer: Peer) -> None:
        """Send nothing more over a link, which is to be closed."""
        self.peers.let_go(peer)
        self.routes.forget(peer)

    def take_back(self, path: str, peer: Peer) -> None:
        """Use a link again, after all."""
        self.peers.take_back(peer)
        self.routes.take_back(path, peer)

    def report(self) -> BusReport:
        """Return what this process has counted so far."""
        metrics = self.metrics
        links = [peer.link for peer in self.peers]
        return BusReport(
            agents=self.hosts.reports(),
            links=tuple(
                LinkReport(link.peer.peer, link.bytes_sent, link.bytes_received) for link in links
            ),
            sent=metrics.sent,
            failures=dict(metrics.failures),
            published=metrics.published,
            dropped=metrics.dropped + self.topics.dropped,
            missed_deadlines=self.timer.missed,
            under_way=len(self.timer),
            engines=engine_reports([mailbox.agent for mailbox in self.hosts.living()]),
        )

    def draining_elsewhere(self, name: str) -> None:
        """Look for an agent anew, since the process that had it is ending."""
        self.routes.forget_agent(name)

    def peer_broken(self, peer: Peer) -> None:
        """Have the connection to a process made anew."""
        if not self.closed:
            self.pool.run(_Restoring(peer.link))

    def peer_lost(self, peer: Peer, error: AgentbusError | None) -> None:
        """Forget a process that went away."""
        self.topics.forget(peer)
        self.grants.forget_peer(peer)
        self.direct.forget(peer)
        if self.topics.bypass is not None:
            self.topics.bypass.forget(peer)
        was_home = peer is self.routes.home
        self.direct_topics.lost(peer, is_home=was_home)
        self.routes.forget(peer)
        if was_home:
            self.membership.home_left(peer.name, closed=error is None)
        if self.peers.named(peer.name) is None:
            for watcher in self.peer_watchers:
                watcher(peer.name)


class _Restoring:
    """A `Workload`: makes another connection for a link that is broken."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def drain(self, task: asyncio.Task[object]) -> None:
        """Try until the link goes on or is over."""
        await self._link.restore()


def _observer(process: str, settings: TelemetrySettings) -> Observer:
    if not settings.enabled:
        return BLIND
    return Observer(perf_counter, SpanLog(process, settings.sample, settings.spans))
