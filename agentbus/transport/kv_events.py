"""KV events over ZeroMQ, as vLLM sends them: a PUB socket, and a ROUTER that tells again.

A message is [topic, sequence number, batch]. Who misses one asks the ROUTER for all from a number
on, and is told [topic, number, batch] each and a number of all ones at the end; vLLM tells from
what it keeps, agentbus tells its whole state where that is not enough. Nothing is encrypted, as
with vLLM, and batches hold token ids: agentbus publishes within one host only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import zmq

from ..errors import ConfigError, MalformedFrame
from ..kv import MAX_BATCH_BYTES, Event, EventLog, ReplicaView, decode_batch
from .zmq_io import BATCH, Readiness

__all__ = ["KV_TOPIC", "KVEventPublisher", "KVEventSubscriber"]

logger = logging.getLogger(__name__)

KV_TOPIC = b"kv-events"
"""What messages begin with; who subscribes takes all that begin with it."""
_END = b"\xff" * 8
_NUMBER_BYTES = 8
_REQUEST_BYTES = 64
"""Longest message that asks for a replay."""
_QUEUE = 16_384
"""Batches that wait for one reader, over a whole replay; who reads slower misses some."""
_SLACK = 256
_LOCAL = ("ipc://", "tcp://127.0.0.1:", "tcp://[::1]:")
_REPLAY_TIMEOUT = 5.0
"""Seconds after which a replay that did not end is asked for again."""


def _socket(kind: int, context: zmq.Context[zmq.Socket[bytes]], limit: int) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    socket.setsockopt(zmq.MAXMSGSIZE, limit)
    socket.setsockopt(zmq.SNDHWM, _QUEUE)
    socket.setsockopt(zmq.RCVHWM, _QUEUE)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IPV6, 1)
    return socket


class KVEventPublisher:
    """Publishes what one engine tells of its KV. Made and used on an event loop."""

    def __init__(self, log: EventLog, *, endpoint: str, replay_endpoint: str) -> None:
        """Bind both sockets.

        Args:
            log: numbers the batches and keeps the latest.
            endpoint: where to publish: `ipc://path`, or `tcp://127.0.0.1:port`.
            replay_endpoint: where to tell again, of the same form.

        Raises:
            ConfigError: an endpoint is not of that form, or cannot be bound.
        """
        self._log = log
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._pub = _socket(zmq.PUB, self._context, _REQUEST_BYTES)
            self._router = _socket(zmq.ROUTER, self._context, _REQUEST_BYTES)
            self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
            _bind(self._pub, endpoint)
            _bind(self._router, replay_endpoint)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._readiness = Readiness(self._router, self._drain)

    def publish(self, events: Sequence[Event]) -> None:
        """Number events and send them to all who listen; nothing is waited for."""
        seq, payload = self._log.publish(events, time.time())
        # A PUB socket never blocks: it drops for whoever is too slow, and they ask again.
        self._pub.send_multipart([KV_TOPIC, _number(seq), payload])

    def close(self) -> None:
        """Close both sockets. What was not sent is dropped."""
        self._readiness.stop()
        self._context.destroy(linger=0)

    def _drain(self) -> None:
        for _ in range(BATCH):
            try:
                frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            identity, *request = frames
            if len(request) == 2 and not request[0] and len(request[1]) == _NUMBER_BYTES:
                self._replay(identity, int.from_bytes(request[1], "big"))
            else:
                logger.warning("a request for KV events to be told again is malformed")

    def _replay(self, identity: bytes, start: int) -> None:
        head = (identity, b"", KV_TOPIC)
        try:
            for seq, payload in self._log.replay(start):
                # Not copied: all who are told again at once are told the same bytes.
                self._router.send_multipart([*head, _number(seq), payload], zmq.NOBLOCK, copy=False)
            self._router.send_multipart([*head, _END, b""], zmq.NOBLOCK)
        except zmq.ZMQError as error:  # it reads too slowly, or is gone: it may ask again
            logger.warning("a replay of KV events was cut short: %s", error)


class KVEventSubscriber:
    """Keeps a view of one replica up to date from what it publishes. Used on an event loop.

    It asks for what it missed, from the beginning when it starts; what cannot be had any more is
    given up.
    """

    def __init__(self, view: ReplicaView, *, endpoint: str, replay_endpoint: str) -> None:
        """Connect to a replica, of agentbus or vLLM, whether or not it is there yet.

        Args:
            view: is kept up to date.
            endpoint: where it publishes, such as `tcp://host:5557`.
            replay_endpoint: where it tells again.

        Raises:
            ConfigError: an endpoint cannot be used.
        """
        self._view = view
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._asked: tuple[int, float] | None = None
        self.malformed = 0
        """Messages that could not be read."""
        try:
            self._sub = _socket(zmq.SUB, self._context, MAX_BATCH_BYTES + _SLACK)
            self._dealer = _socket(zmq.DEALER, self._context, MAX_BATCH_BYTES + _SLACK)
            self._sub.subscribe(KV_TOPIC)
            _connect(self._sub, endpoint)
            _connect(self._dealer, replay_endpoint)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._live = Readiness(self._sub, self._drain_live)
        self._replays = Readiness(self._dealer, self._drain_replays)
        self._ask(0)

    def close(self) -> None:
        """Close both sockets; the view stays as it is."""
        self._live.stop()
        self._replays.stop()
        self._context.destroy(linger=0)

    def _drain_live(self) -> None:
        for _ in range(BATCH):
            try:
                frames = self._sub.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._take(frames[1:], live=True)
            if self._view.missing is not None:
                self._ask(self._view.missing)

    def _drain_replays(self) -> None:
        for _ in range(BATCH):
            try:
                frames = self._dealer.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            *_, number, payload = (b"", b"", *frames)
            if number == _END and not payload:
                self._end_replay()
            else:
                self._take([number, payload], live=False)

    def _take(self, frames: Sequence[bytes], *, live: bool) -> None:
        try:
            number, payload = frames
            if len(number) != _NUMBER_BYTES:
                raise MalformedFrame("a KV event batch without a number")
            self._view.receive(int.from_bytes(number, "big"), decode_batch(payload), live=live)
        except (ValueError, MalformedFrame):
            self.malformed += 1

    def _ask(self, start: int) -> None:
        """Ask for all batches from a number on, unless an answer is on its way."""
        now = self._loop.time()
        if self._asked is not None and now < self._asked[1]:
            return
        self._asked = (start, now + _REPLAY_TIMEOUT)
        try:
            self._dealer.send_multipart([b"", _number(start)], zmq.NOBLOCK)
        except zmq.Again:
            return  # nothing takes it; another gap, or the same, asks again
        self._replays.recheck()

    def _end_replay(self) -> None:
        asked, self._asked = self._asked, None
        missing = self._view.missing
        if missing is None:
            return
        if asked is not None and missing == asked[0]:
            self._view.give_up()
        else:
            self._ask(missing)


def _number(seq: int) -> bytes:
    return seq.to_bytes(_NUMBER_BYTES, "big")


def _bind(socket: zmq.Socket[bytes], endpoint: str) -> None:
    if not endpoint.startswith(_LOCAL):
        problem = f"{endpoint!r} is none of {', '.join(_LOCAL)}: token ids would leave this host"
        raise ConfigError("kv events", problem)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise ConfigError("kv events", f"cannot listen at {endpoint}: {error.strerror}") from error


def _connect(socket: zmq.Socket[bytes], endpoint: str) -> None:
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise ConfigError("kv events", f"cannot connect to {endpoint}: {error.strerror}") from error
