"""KV events from the thread that computes to the event loop that publishes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence

from ..kv import MAX_BATCH_BYTES, AllBlocksCleared, BlockStored, Event, EventLog
from .kv_events import KVEventPublisher

__all__ = ["MAX_WAITING", "KVEventFeed"]

logger = logging.getLogger(__name__)

MAX_WAITING = 8 * MAX_BATCH_BYTES
"""Most bytes of events that wait for the loop; they are estimated from above."""
_BATCH = MAX_BATCH_BYTES // 2
_EVENT_BYTES = 512
_BLOCK_BYTES = 96
_TOKEN_BYTES = 5


class KVEventFeed:
    """Publishes on the loop that it was made on what another thread tells.

    It never holds that thread up. Should the loop lag so far behind that what waits is over
    `MAX_WAITING`, that is dropped and readers are told that nothing is held any more: they know
    too little of this replica then, and nothing wrong.
    """

    def __init__(self, *, endpoint: str, replay_endpoint: str) -> None:
        """Begin an epoch; raises as `KVEventPublisher` does."""
        log = EventLog(time.time_ns())
        self._publisher = KVEventPublisher(log, endpoint=endpoint, replay_endpoint=replay_endpoint)
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting: list[Event] = []
        self._size = 0
        self._closed = False

    def tell(self, events: Sequence[Event]) -> None:
        """Hand events over, in order. May be called in any thread; what comes late is dropped."""
        with self._lock:
            idle = not self._waiting
            self._waiting += events
            self._size += sum(map(_size, events))
            if self._size > MAX_WAITING:
                logger.warning("KV events wait for a loop that does not run: they are given up")
                self._waiting, self._size = [AllBlocksCleared()], _EVENT_BYTES
        if idle:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody listens
                self._loop.call_soon_threadsafe(self._flush)

    def close(self) -> None:
        """Publish what waits, and close the sockets."""
        self._flush()
        self._closed = True
        self._publisher.close()

    def _flush(self) -> None:
        if self._closed:
            return
        with self._lock:
            events, self._waiting, self._size = self._waiting, [], 0
        for batch in _batches(events):
            self._publisher.publish(batch)


def _size(event: Event) -> int:
    if isinstance(event, AllBlocksCleared):
        return _EVENT_BYTES
    size = _EVENT_BYTES + _BLOCK_BYTES * len(event.block_hashes)
    return size + _TOKEN_BYTES * len(event.token_ids) if isinstance(event, BlockStored) else size


def _batches(events: Sequence[Event]) -> Iterator[list[Event]]:
    """Yield events in batches that readers take."""
    batch: list[Event] = []
    size = 0
    for event in events:
        if batch and size + _size(event) > _BATCH:
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += _size(event)
    if batch:
        yield batch
