"""What an engine published about its KV: numbered batches, the latest kept for who missed them.

Sequence numbers begin at 0 with each epoch. Who asks for what is no longer kept gets the state
instead: one batch that begins with `AllBlocksCleared`, under the number of the last one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from .events import (
    MAX_BATCH_BYTES,
    MAX_EVENTS,
    AllBlocksCleared,
    BlockHash,
    BlockRemoved,
    BlockStored,
    Event,
    EventBatch,
    encode_batch,
)

__all__ = ["EventLog", "Numbered"]


class Numbered(NamedTuple):
    """An encoded batch and its sequence number."""

    seq: int
    payload: bytes


@dataclass(slots=True)
class _Held:
    """A block that some medium holds."""

    stored: BlockStored
    media: dict[str | None, None] = field(default_factory=dict)


class EventLog:
    """Numbers one engine's batches within one epoch, and can tell them again."""

    _SNAPSHOT_SHARE = 0.9
    """Of the largest batch that is filled with state; sizes are estimated from above."""
    _BLOCK_BYTES = 320
    _TOKEN_BYTES = 5

    def __init__(
        self, epoch: int, *, max_batches: int = 10_000, max_bytes: int = 64 * 2**20
    ) -> None:
        """Begin an epoch.

        Args:
            epoch: larger than any that this engine used before, such as the time in ns.
            max_batches: most batches that are kept, as many as vLLM keeps.
            max_bytes: most bytes of them.
        """
        self.epoch = epoch
        self._max_batches = max_batches
        self._max_bytes = max_bytes
        self._kept: deque[Numbered] = deque()
        self._bytes = 0
        self._next = 0
        self._last_ts = 0.0
        self._held: dict[BlockHash, _Held] = {}
        self._snapshot: Numbered | None = None

    def publish(self, events: Sequence[Event], ts: float) -> Numbered:
        """Number and keep what happened.

        Args:
            events: in order.
            ts: seconds since 1970.
        """
        batch = EventBatch(ts=ts, events=tuple(events), epoch=self.epoch)
        numbered = Numbered(self._next, encode_batch(batch))
        self._next += 1
        self._last_ts = ts
        for event in events:
            self._note(event)
        self._kept.append(numbered)
        self._bytes += len(numbered.payload)
        while len(self._kept) > self._max_batches or self._bytes > self._max_bytes:
            self._bytes -= len(self._kept.popleft().payload)
        return numbered

    def replay(self, start: int) -> list[Numbered]:
        """Return the batches from number `start` on, or the whole state where some are gone."""
        if start >= self._next:
            return []
        if self._kept and self._kept[0].seq <= start:
            return [numbered for numbered in self._kept if numbered.seq >= start]
        return [self.snapshot()]

    def snapshot(self) -> Numbered:
        """Return the state as one batch, under the number of the last one published.

        A state that no batch can hold is cut: the beginnings of sequences stay. It is made once
        for all who ask before something else happens.
        """
        if self._snapshot is not None and self._snapshot.seq == self._next - 1:
            return self._snapshot
        events: list[Event] = [AllBlocksCleared(), *self._state()]
        batch = EventBatch(ts=self._last_ts, events=tuple(events), epoch=self.epoch)
        self._snapshot = Numbered(self._next - 1, encode_batch(batch))
        return self._snapshot

    def _note(self, event: Event) -> None:
        if isinstance(event, AllBlocksCleared):
            self._held.clear()
        elif isinstance(event, BlockRemoved):
            for name in event.block_hashes:
                self._forget(name, event.medium)
        else:
            for single in _singles(event):
                held = self._held.setdefault(single.block_hashes[0], _Held(single))
                held.media[event.medium] = None

    def _forget(self, name: BlockHash, medium: str | None) -> None:
        held = self._held.get(name)
        if held is not None:
            held.media.pop(medium, None)
            if not held.media:
                del self._held[name]

    def _state(self) -> Iterable[BlockStored]:
        """Yield each block for each medium that holds it, parents first, while there is room."""
        children: dict[BlockHash | None, list[_Held]] = {}
        for held in self._held.values():
            children.setdefault(held.stored.parent_block_hash, []).append(held)
        room = MAX_BATCH_BYTES * self._SNAPSHOT_SHARE
        events = MAX_EVENTS - 1
        level = children.get(None, [])
        while level:
            for held in level:
                tokens = len(held.stored.token_ids)
                cost = self._BLOCK_BYTES + self._TOKEN_BYTES * tokens
                room -= cost * len(held.media)
                events -= len(held.media)
                if room < 0 or events < 0:
                    return
                yield from (replace(held.stored, medium=medium) for medium in held.media)
            level = [
                child for held in level for child in children.get(held.stored.block_hashes[0], [])
            ]


def _singles(event: BlockStored) -> Iterable[BlockStored]:
    """Yield an event for each of an event's blocks."""
    parent, size = event.parent_block_hash, event.block_size
    for number, name in enumerate(event.block_hashes):
        extra = None if event.extra_keys is None else event.extra_keys[number : number + 1]
        yield replace(
            event,
            block_hashes=(name,),
            parent_block_hash=parent,
            token_ids=event.token_ids[number * size : (number + 1) * size],
            extra_keys=extra,
        )
        parent = name
