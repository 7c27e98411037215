"""How a process's messages on each topic leave it: by the home, or straight to who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import anyio

from ..config import Limits
from ..telemetry import Metrics
from ..wire import Frames, copy_buffers
from .peer import Peer

__all__ = ["HOT", "HOT_WITHIN", "Held", "Move", "Room", "Way", "Ways"]

HOT: Final = 64
"""Messages on one topic after which it is looked how fast they came."""
HOT_WITHIN: Final = 1.0
"""Seconds in which that many make it worth while to publish past the broker."""
_ENTRY: Final = 256
"""Bytes that a message which is kept takes at least."""
_REMEMBERED: Final = 4096
"""Topics whose messages are counted."""

Held = tuple[str, str, Frames]
"""A message that waits: the agent that published it, its schema, its payload."""


class Room:
    """How much may be kept for one listener, on all topics: as much as may wait on a link to it."""

    __slots__ = ("large", "share_from", "small")

    def __init__(self, limits: Limits) -> None:
        self.share_from = limits.share_from
        self.small = limits.write_buffer
        """Bytes of what a link writes."""
        self.large = limits.shared
        """Bytes of what goes through shared memory."""


class Move:
    """A listener on its way from the broker's messages to this process's own."""

    __slots__ = ("_large", "_metrics", "_room", "_small", "held", "left", "lost", "over", "peer")

    def __init__(self, peer: Peer, room: Room, metrics: Metrics) -> None:
        self.peer = peer
        self._room = room
        self._metrics = metrics
        self._small = 0
        self._large = 0
        self.held: list[Held] = []
        self.left = 0
        """The latest turn of this listener that the broker said is over."""
        self.lost = False
        """Whether it cannot be sent to after all."""
        self.over = anyio.Event()
        """Set once nothing is held any more."""

    def hold(self, source: str, schema: str, frames: Frames) -> None:
        """Keep a message; with too many a listener that is so slow loses what comes."""
        room = self._room
        sizes = [len(frame) for frame in frames]
        large = sum([size for size in sizes if size >= room.share_from])
        small = _ENTRY + sum(sizes) - large
        if small > room.small or large > room.large:
            self._metrics.dropped += 1
            return
        room.small -= small
        room.large -= large
        self._small += small
        self._large += large
        self.held.append((source, schema, frames if len(frames) == 1 else copy_buffers(frames)))

    def end(self) -> None:
        """Nothing is kept any more."""
        self._room.small += self._small
        self._room.large += self._large
        self.over.set()


class Way:
    """How the messages on one topic leave."""

    __slots__ = (
        "busy",
        "count",
        "direct",
        "idle",
        "mark",
        "moves",
        "readmitted",
        "retry_at",
        "revoked",
        "since",
        "topic",
        "until",
    )

    def __init__(self, topic: str, now: float) -> None:
        self.topic = topic
        self.count = 0
        """Messages since `since`, when that many were `HOT` last."""
        self.since = now
        self.direct: dict[Peer, int] = {}
        """Listeners that this process sends to, each with its turn; see `routing.bypass`."""
        self.moves: list[Move] = []
        self.until = 0.0
        """Until when the home needs no copy."""
        self.revoked = 0
        """The latest cover that does not hold any more."""
        self.readmitted = 0.0
        """When the home was last told to pass on to a listener again: it may have answered before
        it read that."""
        self.busy = False
        """Whether it is being found out who listens, or who has read all."""
        self.retry_at = 0.0
        self.mark = (0, 0.0)
        """What was counted when it was last looked whether this way is used."""
        self.idle = 0
        """How often in a row it was not."""

    def targets(self, homes: list[Peer], now: float) -> list[Peer]:
        """Return the links that a message goes to; it is to be held for `moves` too."""
        return list(self.direct) if self.until > now else [*self.direct, *homes]

    def hold(self, source: str, schema: str, frames: Frames) -> None:
        """Keep a message for listeners on their way."""
        for move in self.moves:
            move.hold(source, schema, frames)


class Ways:
    """The ways of all topics on which this process publishes."""

    __slots__ = ("_time", "_ways", "consider")

    def __init__(self, time: Callable[[], float]) -> None:
        self._ways: dict[str, Way] = {}
        self._time = time
        self.consider: Callable[[Way, float], None] | None = None
        """Is called with a way on which messages came fast, and the time."""

    def __iter__(self) -> Iterator[Way]:
        return iter(tuple(self._ways.values()))

    def of(self, topic: str) -> Way | None:
        """Return the way of a topic, if there is something to remember of it."""
        return self._ways.get(topic)

    def find(self, topic: str) -> Way | None:
        """Count a message; returns the way of its topic, or None where it leaves by the home."""
        way = self._ways.get(topic)
        if way is None:
            way = self._add(topic)
        way.count += 1
        if way.count >= HOT:
            now = self._time()
            is_hot = now - way.since < HOT_WITHIN
            way.count, way.since = 0, now
            if is_hot and self.consider is not None:
                self.consider(way, now)
        return way if way.direct or way.moves else None

    def clear(self) -> None:
        """Forget all."""
        self._ways.clear()

    def _add(self, topic: str) -> Way:
        if len(self._ways) >= _REMEMBERED:
            ways = self._ways.items()
            self._ways = {name: way for name, way in ways if way.direct or way.moves or way.busy}
        way = self._ways[topic] = Way(topic, self._time())
        return way
