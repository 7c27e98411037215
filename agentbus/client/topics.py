"""Topics in one process: who subscribed here, and what is published here or comes over links."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ..config import BusSettings
from ..errors import (
    AgentbusError,
    ConfigError,
    InvalidMessage,
    InvalidName,
    MailboxFull,
    MalformedFrame,
    PermissionDenied,
)
from ..messages import Envelope, Kind
from ..names import check_pattern, check_topic
from ..routing import PUBLISH, SUBSCRIBE, SubscriptionTable
from ..telemetry import Metrics
from ..wire import MAX_BATCH, Frames, copy_buffers, count_batch, is_small, published
from .delayed import Delayed
from .gate import MAX_DECISIONS, Gate
from .payload import payload_type
from .peer import Peer
from .requester import check_seconds
from .routes import Routes
from .subscription import Published, Subscription
from .types import TypeTable
from .ways import Ways

if TYPE_CHECKING:
    from .bypass import Bypass

__all__ = ["Topics"]

logger = logging.getLogger("agentbus")

_PUBLISH: Final = Kind.PUBLISH  # an enum's members are slow to look up
_NEW: Final = tuple.__new__
_MAX_PATTERNS: Final = 4096
"""Patterns that one process that joined this one may subscribe to."""
_RESERVED: Final = "$"
"""What the topics begin with that are the bus's own."""


class Topics:
    """Subscribers of this process and of those that joined it, and what goes to them."""

    def __init__(
        self,
        routes: Routes,
        types: TypeTable,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        settings: BusSettings,
    ) -> None:
        self._routes = routes
        self._types = types
        self._metrics = metrics
        self._limit = settings.delayed
        self._time = loop.time
        self._table: SubscriptionTable[Subscription | Peer] = SubscriptionTable()
        self._subscriptions: set[Subscription] = set()
        self._patterns: dict[Peer, int] = {}
        self._refused: dict[tuple[str, str], str] = {}
        """What the broker does not pass on, by agent and topic, with the principal that it named."""
        self.gate: Gate | None = None
        self.ways = Ways(loop.time)
        self.bypass: Bypass | None = None
        """In a broker: who gets a publisher's messages without it."""
        self.delayed = Delayed(loop, settings.delayed)

    @property
    def dropped(self) -> int:
        """Messages that this process's subscribers were too slow for."""
        return sum(subscription.dropped for subscription in self._subscriptions)

    def add(self, subscription: Subscription) -> None:
        """Deliver to a subscriber from here on."""
        self._table.add(subscription.pattern, subscription)
        self._subscriptions.add(subscription)

    def remove(self, subscription: Subscription) -> None:
        """Deliver nothing more to a subscriber; what it was too slow for stays counted."""
        self._table.remove(subscription.pattern, subscription)
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            self._metrics.dropped += subscription.dropped

    def patterns(self) -> set[str]:
        """Return what this process's subscribers listen to."""
        return {subscription.pattern for subscription in self._subscriptions}

    def end(self, error: AgentbusError | None) -> None:
        """End all subscriptions of this process, with `error` if there is one."""
        for subscription in self._subscriptions:
            subscription.close(error)

    def change(self, peer: Peer, text: str) -> None:
        """Handle what a peer says to `$bus`: `+pattern` subscribes it, `-pattern` unsubscribes.

        Raises:
            InvalidMessage, InvalidName: it says something else.
        """
        pattern = check_pattern(text[1:])
        if text.startswith("+"):
            if self.gate is not None:
                self.gate.check_subscribe(peer, pattern)
            count = self._patterns.get(peer, 0)
            if count >= _MAX_PATTERNS:
                raise InvalidMessage("str", f"one process subscribes to {_MAX_PATTERNS} patterns")
            self._patterns[peer] = count + 1
            self._table.add(pattern, peer)
        elif text.startswith("-"):
            if self._table.count(pattern, peer):
                self._table.remove(pattern, peer)
                self._patterns[peer] -= 1
        else:
            raise InvalidMessage("str", "say +pattern or -pattern")

    def forget(self, peer: Peer) -> None:
        """Deliver nothing more to a process that went away."""
        self._table.remove_all(peer)
        self._patterns.pop(peer, None)

    def recheck(self) -> list[tuple[Peer, PermissionDenied]]:
        """Drop what peers have subscribed to and may no longer; returns what that was."""
        dropped = []
        for peer in self._patterns:
            for pattern in self._table.patterns(peer):
                try:
                    if self.gate is not None:
                        self.gate.check_subscribe(peer, pattern)
                except PermissionDenied as error:
                    for _ in range(self._table.count(pattern, peer)):
                        self._table.remove(pattern, peer)
                        self._patterns[peer] -= 1
                    dropped.append((peer, error))
        return dropped

    def refuse(self, source: str, error: PermissionDenied) -> None:
        """The broker does not let this process publish there, or have what is published.

        Publishing there raises the error from now on; subscriptions end with it.
        """
        if error.operation == SUBSCRIBE:
            for subscription in self._subscriptions:
                if subscription.pattern == error.subject:
                    subscription.close(error)
            return
        if len(self._refused) >= MAX_DECISIONS:
            self._refused.clear()
        self._refused[source, error.subject] = error.principal

    def allow_all(self) -> None:
        """Other rules hold: leave it to the broker again what it refuses."""
        self._refused.clear()

    def publish(self, topic: str, payload: Any, source: str) -> None:
        """Hand a payload to this process's subscribers and, by way of the home, to all others.

        Raises:
            PermissionDenied: the broker has refused to pass such a message on.
        """
        if self._refused and (source, topic) in self._refused:
            raise PermissionDenied(self._refused[source, topic], PUBLISH, topic)
        subscribers = self.subscribers(topic)
        kind = payload_type(type(payload))
        peers = self._routes.homes()
        way = self.ways.find(topic) if peers else None
        if way is not None:
            peers = way.targets(peers, self._time())
        self._metrics.published += 1
        for subscriber in subscribers:
            if isinstance(subscriber, Subscription):
                subscriber.deliver((Published(topic, kind.receive(payload), source),))
            else:
                peers.append(subscriber)
        if not peers and way is None:
            return
        frames = kind.encode(payload)
        if way is not None:
            way.hold(source, kind.schema, frames)
        for peer in peers:
            self.send(peer, source, topic, kind.schema, frames)

    def send(self, peer: Peer, source: str, topic: str, schema: str, frames: Frames) -> None:
        """Send a message to one process; one that cannot be sent is counted as dropped."""
        try:
            _send(peer, source, topic, schema, frames)
        except AgentbusError as error:
            self._note_dropped(1, topic, error)

    def subscribers(self, topic: str) -> tuple[Subscription | Peer, ...]:
        """Return who gets what is published on a topic. Raises `InvalidName` if it is none."""
        found = self._table.matched(topic)
        return self._table.match(check_topic(topic)) if found is None else found

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
        if check_seconds(delay, "delay") < 0:
            raise ConfigError("delay", f"must not be negative, not {delay}")

        def due() -> None:
            try:
                self.publish(topic, payload, source)
            except AgentbusError as error:
                self._metrics.dropped += 1
                logger.warning("a delayed message on %s was dropped: %s", topic, error)

        if not self.delayed.after(delay, due):
            raise MailboxFull(topic, self._limit)

    def published(self, peer: Peer, envelope: Envelope) -> None:
        """Hand on a message that a link brought, to all but the link that brought it."""
        if not envelope.payloads:
            raise MalformedFrame("a published message has a payload")
        if (count := _count(envelope)) > MAX_BATCH:
            raise MalformedFrame(f"{count} messages in one envelope are over {MAX_BATCH}")
        topic, source = envelope.target, envelope.source
        if (
            self.gate is not None or (self.bypass is not None and topic.startswith(_RESERVED))
        ) and not self._is_let_in(peer, envelope):
            return
        passed = () if self.bypass is None else self.bypass.passed(peer, topic)
        values: Sequence[Any] | None = None
        for subscriber in self.subscribers(topic):
            if isinstance(subscriber, Subscription):
                values = self._read(envelope, values)
                # Half the time of calling the class.
                made = [_NEW(Published, (topic, value, source)) for value in values]
                subscriber.deliver(made)
            elif subscriber is not peer and subscriber not in passed:
                self._forward(subscriber, envelope)

    def _is_let_in(self, peer: Peer, envelope: Envelope) -> bool:
        try:
            if self.bypass is not None and envelope.target.startswith(_RESERVED):
                raise InvalidName(envelope.target, "topics that begin with '$' are the bus's own")
            if self.gate is not None:
                self.gate.check_publish(peer, envelope.source, envelope.target)
        except AgentbusError as error:
            self._metrics.dropped += _count(envelope)
            # Whoever it is may go on, and is not to fill the log: the gate notes it once.
            logger.debug("a message of %s was dropped: %s", peer.name, error)
            return False
        return True

    def _read(self, envelope: Envelope, taken: Sequence[Any] | None) -> Sequence[Any]:
        """Return the values of an envelope for one subscriber, those that another has `taken` for
        the next; none, and says so, if they are not what they should be."""
        frames = envelope.payloads
        try:
            kind = self._types.find(envelope.schema)
            if taken is None:
                return kind.decode_batch(frames)
            if len(frames) > 1:  # to what one may write to, as to a tensor, no other views
                return kind.decode_batch(copy_buffers(frames))
            return [kind.receive(value) for value in taken]
        except InvalidMessage as error:
            self._note_dropped(_count(envelope), envelope.target, error)
            return ()

    def _forward(self, peer: Peer, envelope: Envelope) -> None:
        try:
            peer.link.send(envelope)
            peer.poll.sent()
        except AgentbusError as error:
            self._note_dropped(_count(envelope), envelope.target, error)

    def _note_dropped(self, count: int, topic: str, error: AgentbusError) -> None:
        self._metrics.dropped += count
        logger.warning("%d messages on %s were dropped: %s", count, topic, error)


def _send(peer: Peer, source: str, topic: str, schema: str, frames: Frames) -> None:
    link = peer.link
    before = link.bytes_sent
    if link.joins and is_small(frames):
        link.join((_PUBLISH, source, topic, schema, 0), 0, b"", frames[0])
    else:
        link.send(published(source, topic, schema, frames))
    if link.bytes_sent != before:  # it does not only wait to leave with others
        peer.poll.sent()


def _count(envelope: Envelope) -> int:
    """Return how many messages an envelope holds."""
    try:
        return count_batch(envelope.payloads)
    except MalformedFrame:
        return 1
